#include "prompt.h"

#include <string.h>

#include "base/comm.h"

PromptCodec prompt_codec(Arena *arena, const Tokenizer *tokenizer, const char *instruction,
                         int max_post_tokens, int max_reply_tokens) {
  const int32_t *start;
  int first = tokenizer_start(tokenizer, &start);
  int count = tokenizer_encode(tokenizer, instruction, strlen(instruction), NULL, 0);
  int32_t *tokens = NEW(arena, int32_t, first + count + 1);
  for (int i = 0; i < first; i++) tokens[i] = start[i];
  tokenizer_encode(tokenizer, instruction, strlen(instruction), tokens + first, count);
  return (PromptCodec){tokenizer,       tokens,           first + count, first,
                       max_post_tokens, max_reply_tokens, instruction};
}

int prompt_max(const PromptCodec *codec) { return codec->instruction_count + codec->max_post_tokens + 1; }

int sequence_max(const PromptCodec *codec) { return prompt_max(codec) + codec->max_reply_tokens + 1; }

Status prompt_check(const PromptCodec *codec, const DecoderConfig *config, const char *preset) {
  if (sequence_max(codec) <= decoder_context(config)) return OK;
  return fail(INVALID,
              "model \"%s\": its context of %d tokens is shorter than instruction %d + post %d + "
              "reply %d + 2%s; "
              "lower data.max_post_tokens or data.max_reply_tokens, or choose a model with a longer context",
              preset, config->max_positions, codec->instruction_count, codec->max_post_tokens,
              codec->max_reply_tokens, config->prefix_tokens ? " and the prefix" : "");
}

static int encode_cut(const PromptCodec *codec, const char *text, int32_t *out, int max) {
  int count = tokenizer_encode(codec->tokenizer, text, strlen(text), out, max);
  return count < max ? count : max;
}

int prompt_encode(const PromptCodec *codec, const char *post, int32_t *out) {
  int count = codec->instruction_count;
  memcpy(out, codec->instruction, sizeof *out * (size_t)count);
  count += encode_cut(codec, post, out + count, codec->max_post_tokens);
  out[count++] = tokenizer_sep(codec->tokenizer);
  return count;
}

int reply_encode(const PromptCodec *codec, const char *reply, int32_t *out) {
  int count = encode_cut(codec, reply, out, codec->max_reply_tokens);
  if (count < codec->max_reply_tokens) out[count++] = tokenizer_eos(codec->tokenizer);
  return count;
}

int reward_encode(const PromptCodec *codec, RewardInput input, const char *post, const char *reply,
                  int32_t *out, int *shared) {
  int count;
  if (input == INPUT_POST_REPLY) {
    *shared = count = prompt_encode(codec, post, out);
    count += encode_cut(codec, reply, out + count, codec->max_reply_tokens);
  } else {
    *shared = 0;
    count = codec->start_count;
    memcpy(out, codec->instruction, sizeof *out * (size_t)count);
    count += encode_cut(codec, reply, out + count, codec->max_reply_tokens);
    out[count++] = tokenizer_sep(codec->tokenizer);
    count += encode_cut(codec, post, out + count, codec->max_post_tokens);
  }
  out[count++] = tokenizer_eos(codec->tokenizer);
  return count;
}

Status prompt_save(const PromptCodec *codec, const SamplingSettings *sampling, const char *folder) {
  if (!comm_is_first()) return OK;
  Arena arena = {0};
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "instruction", codec->instruction_text);
  cJSON_AddNumberToObject(object, "max_post_tokens", codec->max_post_tokens);
  cJSON_AddNumberToObject(object, "max_reply_tokens", codec->max_reply_tokens);
  cJSON_AddNumberToObject(object, "temperature", sampling->temperature);
  cJSON_AddNumberToObject(object, "top_p", sampling->top_p);
  cJSON_AddNumberToObject(object, "top_k", sampling->top_k);
  Status status = json_write(path_join(&arena, folder, "prompt.json"), object);
  cJSON_Delete(object);
  if (status == OK) status = tokenizer_save(codec->tokenizer, path_join(&arena, folder, "tokenizer.json"));
  arena_free(&arena);
  return status;
}

static Status read_prompt(Arena *arena, const Json *json, const Tokenizer *tokenizer, PromptCodec *codec,
                          SamplingSettings *sampling) {
  const char *instruction;
  int64_t max_post, max_reply, top_k;
  TRY(json_get_string(json, json->root, "instruction", &instruction));
  TRY(json_get_int(json, json->root, "max_post_tokens", &max_post));
  TRY(json_get_int(json, json->root, "max_reply_tokens", &max_reply));
  TRY(json_get_number(json, json->root, "temperature", &sampling->temperature));
  TRY(json_get_number(json, json->root, "top_p", &sampling->top_p));
  TRY(json_get_int(json, json->root, "top_k", &top_k));
  sampling->top_k = (int)top_k;
  if (max_post < 1 || max_reply < 1 || max_post > 1 << 20 || max_reply > 1 << 20)
    return fail(INVALID, "%s: max_post_tokens and max_reply_tokens must be positive; make the model again",
                json->path);
  *codec = prompt_codec(arena, tokenizer, arena_strdup(arena, instruction), (int)max_post, (int)max_reply);
  return OK;
}

Status prompt_load(Arena *arena, const char *folder, PromptCodec *codec, SamplingSettings *sampling) {
  Tokenizer *tokenizer;
  TRY(tokenizer_load(arena, path_join(arena, folder, "tokenizer.json"), &tokenizer));
  Json json;
  TRY(json_read(arena, path_join(arena, folder, "prompt.json"), &json));
  Status status = read_prompt(arena, &json, tokenizer, codec, sampling);
  json_free(&json);
  return status;
}
