/* GGUF's keys, read and written. */
#include <string.h>

#include "models/family_tables.h"

static const char *gguf_where(Arena *arena, const GgufFile *file, const GgufValue *value) {
  return arena_print(arena, "%s: offset %zu", file->path,
                     (size_t)(value->at - (const unsigned char *)file->map.data));
}

static const GgufValue *gguf_setting(Arena *arena, const GgufFile *file, const char *architecture,
                                     const char *key) {
  return gguf_find(file, arena_print(arena, "%s.%s", architecture, key));
}

static bool gguf_is(const GgufString *string, const char *text) {
  return string->length == strlen(text) && memcmp(string->text, text, string->length) == 0;
}

static Status find_gguf(Arena *arena, const GgufFile *file, const Family **out) {
  const GgufValue *value = gguf_find(file, "general.architecture");
  if (!value || value->type != GGUF_STRING)
    return fail(INVALID, "%s: no \"general.architecture\"; give a GGUF file with a model", file->path);
  for (int i = 0; i < family_count; i++) {
    *out = &families[i];
    if (gguf_is(&value->string, families[i].gguf)) return OK;
  }
  return fail(INVALID,
              "%s: architecture \"%.*s\" is not one of those that are imported: gpt2, llama, qwen2, qwen3",
              gguf_where(arena, file, value), (int)(value->string.length < 40 ? value->string.length : 40),
              value->string.text);
}

static Status read_gguf_numbers(Arena *arena, const GgufFile *file, const Family *family,
                                DecoderConfig *out) {
  for (const NumberRow *row = family->numbers; number_row(row); row++) {
    if (!row->gguf && row->missing == REQUIRED) continue;
    const GgufValue *value = row->gguf ? gguf_setting(arena, file, family->gguf, row->gguf) : NULL;
    if (!value && row->missing == REQUIRED)
      return fail(INVALID, "%s: \"%s.%s\" is missing; use another copy of the file", file->path, family->gguf,
                  row->gguf);
    if (!value) {
      family_fill_missing(row, out);
      continue;
    }
    const char *at = gguf_where(arena, file, value);
    if (value->type == GGUF_STRING || value->type == GGUF_ARRAY)
      return fail(INVALID, "%s: \"%s\" is not one number; the layers of this model differ, take another", at,
                  value->key);
    TRY(family_store_number(row, at, value->key, gguf_number(value, 0), out));
  }
  return OK;
}

/* What would change the computation and is not done: each must be absent or have this number. */
static Status check_gguf(Arena *arena, const GgufFile *file, const Family *family, const DecoderConfig *c) {
  const GgufValue *scaling = gguf_setting(arena, file, family->gguf, "rope.scaling.type");
  if (scaling && !(scaling->type == GGUF_STRING && gguf_is(&scaling->string, "none")))
    return fail(INVALID, "%s: \"%s\": rope scaling is not done by the decoder; take a model without it",
                gguf_where(arena, file, scaling), scaling->key);
  if (gguf_tensor(file, "rope_freqs.weight"))
    return fail(
        INVALID,
        "%s: tensor \"rope_freqs.weight\": rope scaling is not done by the decoder; take a model without it",
        file->path);
  const struct {
    const char *key;
    double number;
  } rules[] = {{"rope.dimension_count", c->head_dim},
               {"attention.value_length", c->head_dim},
               {"expert_count", 0},
               {"rope.scale_linear", 1}};
  for (int i = 0; i < 4; i++) {
    const GgufValue *value = gguf_setting(arena, file, family->gguf, rules[i].key);
    if (!value || (c->rope == false && i == 0)) continue;
    if (value->type == GGUF_STRING || value->type == GGUF_ARRAY || gguf_number(value, 0) != rules[i].number)
      return fail(INVALID, "%s: \"%s\" must be %.15g for this decoder; take another model",
                  gguf_where(arena, file, value), value->key, rules[i].number);
  }
  return OK;
}

/* Without an output matrix, or with one of the same bytes as the token table, the two are tied. */
static bool gguf_tied(const GgufTensor *table, const GgufTensor *output) {
  return !output || (output->type == table->type && output->bytes == table->bytes &&
                     memcmp(output->data, table->data, table->bytes) == 0);
}

Status family_read_gguf(Arena *arena, const GgufFile *file, int context, const Family **family,
                        DecoderConfig *out) {
  TRY(find_gguf(arena, file, family));
  *out = (*family)->form;
  const GgufTensor *table = gguf_tensor(file, "token_embd.weight");
  if (!table || table->rank != 2)
    return fail(INVALID, "%s: no matrix \"token_embd.weight\"; use another copy of the file", file->path);
  const NumberRow rows = {.offset = offsetof(DecoderConfig, vocab)};
  TRY(family_store_number(&rows, file->path, "rows of token_embd.weight", (double)table->shape[0], out));
  TRY(read_gguf_numbers(arena, file, *family, out));
  TRY(check_gguf(arena, file, *family, out));
  out->tied = gguf_tied(table, gguf_tensor(file, "output.weight"));
  if ((*family)->biases) {
    out->qkv_bias = gguf_tensor(file, "blk.0.attn_q.bias") != NULL;
    out->bias = gguf_tensor(file, "blk.0.ffn_down.bias") != NULL;
  }
  const GgufValue *window = gguf_setting(arena, file, (*family)->gguf, "attention.sliding_window");
  bool slides = window && window->type != GGUF_STRING && window->type != GGUF_ARRAY;
  return family_limit_context(file->path, context, slides ? gguf_number(window, 0) : 0, out);
}

void family_gguf_keys(Arena *arena, const Family *family, const DecoderConfig *config, GgufWriter *writer) {
  gguf_add_string(writer, "general.architecture", family->gguf);
  for (const NumberRow *row = family->numbers; number_row(row); row++) {
    const char *at = (const char *)config + row->offset;
    if (!row->gguf) continue;
    const char *key = arena_print(arena, "%s.%s", family->gguf, row->gguf);
    if (row->real)
      gguf_add_f32(writer, key, *(const float *)(const void *)at);
    else
      gguf_add_u32(writer, key, (uint32_t) * (const int *)(const void *)at);
  }
  if (!config->rope) return;
  gguf_add_u32(writer, arena_print(arena, "%s.attention.value_length", family->gguf),
               (uint32_t)config->head_dim);
  gguf_add_u32(writer, arena_print(arena, "%s.rope.dimension_count", family->gguf),
               (uint32_t)config->head_dim);
  gguf_add_u32(writer, arena_print(arena, "%s.vocab_size", family->gguf), (uint32_t)config->vocab);
}
