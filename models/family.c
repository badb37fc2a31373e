#include <math.h>
#include <string.h>

#include "models/decoder.h"
#include "models/family_tables.h"

#define AT(member) offsetof(DecoderConfig, member)

/* ---- the tables ---- */

static const TensorRow gpt2_tensors[] = {
    {"embedding.weight", "transformer.wte.weight", "token_embd.weight", WHOLE, false},
    {"positions.weight", "transformer.wpe.weight", "position_embd.weight", WHOLE, false},
    {"layers.%.attention_norm.gain", "transformer.h.%.ln_1.weight", "blk.%.attn_norm.weight", WHOLE, false},
    {"layers.%.attention_norm.bias", "transformer.h.%.ln_1.bias", "blk.%.attn_norm.bias", WHOLE, false},
    {"layers.%.attention.qkv.weight", "transformer.h.%.attn.c_attn.weight", "blk.%.attn_qkv.weight", WHOLE,
     true},
    {"layers.%.attention.qkv.bias", "transformer.h.%.attn.c_attn.bias", "blk.%.attn_qkv.bias", WHOLE, false},
    {"layers.%.attention.proj.weight", "transformer.h.%.attn.c_proj.weight", "blk.%.attn_output.weight",
     WHOLE, true},
    {"layers.%.attention.proj.bias", "transformer.h.%.attn.c_proj.bias", "blk.%.attn_output.bias", WHOLE,
     false},
    {"layers.%.mlp_norm.gain", "transformer.h.%.ln_2.weight", "blk.%.ffn_norm.weight", WHOLE, false},
    {"layers.%.mlp_norm.bias", "transformer.h.%.ln_2.bias", "blk.%.ffn_norm.bias", WHOLE, false},
    {"layers.%.mlp.up.weight", "transformer.h.%.mlp.c_fc.weight", "blk.%.ffn_up.weight", WHOLE, true},
    {"layers.%.mlp.up.bias", "transformer.h.%.mlp.c_fc.bias", "blk.%.ffn_up.bias", WHOLE, false},
    {"layers.%.mlp.down.weight", "transformer.h.%.mlp.c_proj.weight", "blk.%.ffn_down.weight", WHOLE, true},
    {"layers.%.mlp.down.bias", "transformer.h.%.mlp.c_proj.bias", "blk.%.ffn_down.bias", WHOLE, false},
    {"final_norm.gain", "transformer.ln_f.weight", "output_norm.weight", WHOLE, false},
    {"final_norm.bias", "transformer.ln_f.bias", "output_norm.bias", WHOLE, false},
    {"vocab.weight", "lm_head.weight", "output.weight", WHOLE, false},
    {0}};

/* Llama, Mistral, Qwen2, Qwen3: each has those of them that its form of the decoder has. */
static const TensorRow llama_tensors[] = {
    {"embedding.weight", "model.embed_tokens.weight", "token_embd.weight", WHOLE, false},
    {"layers.%.attention_norm.gain", "model.layers.%.input_layernorm.weight", "blk.%.attn_norm.weight", WHOLE,
     false},
    {"layers.%.attention.qkv.weight", "model.layers.%.self_attn.q_proj.weight", "blk.%.attn_q.weight", QUERY,
     false},
    {"layers.%.attention.qkv.weight", "model.layers.%.self_attn.k_proj.weight", "blk.%.attn_k.weight", KEY,
     false},
    {"layers.%.attention.qkv.weight", "model.layers.%.self_attn.v_proj.weight", "blk.%.attn_v.weight", VALUE,
     false},
    {"layers.%.attention.qkv.bias", "model.layers.%.self_attn.q_proj.bias", "blk.%.attn_q.bias", QUERY,
     false},
    {"layers.%.attention.qkv.bias", "model.layers.%.self_attn.k_proj.bias", "blk.%.attn_k.bias", KEY, false},
    {"layers.%.attention.qkv.bias", "model.layers.%.self_attn.v_proj.bias", "blk.%.attn_v.bias", VALUE,
     false},
    {"layers.%.attention.q_norm.gain", "model.layers.%.self_attn.q_norm.weight", "blk.%.attn_q_norm.weight",
     WHOLE, false},
    {"layers.%.attention.k_norm.gain", "model.layers.%.self_attn.k_norm.weight", "blk.%.attn_k_norm.weight",
     WHOLE, false},
    {"layers.%.attention.proj.weight", "model.layers.%.self_attn.o_proj.weight", "blk.%.attn_output.weight",
     WHOLE, false},
    {"layers.%.attention.proj.bias", "model.layers.%.self_attn.o_proj.bias", "blk.%.attn_output.bias", WHOLE,
     false},
    {"layers.%.mlp_norm.gain", "model.layers.%.post_attention_layernorm.weight", "blk.%.ffn_norm.weight",
     WHOLE, false},
    {"layers.%.mlp.up.weight", "model.layers.%.mlp.gate_proj.weight", "blk.%.ffn_gate.weight", GATE, false},
    {"layers.%.mlp.up.weight", "model.layers.%.mlp.up_proj.weight", "blk.%.ffn_up.weight", UP, false},
    {"layers.%.mlp.up.bias", "model.layers.%.mlp.gate_proj.bias", "blk.%.ffn_gate.bias", GATE, false},
    {"layers.%.mlp.up.bias", "model.layers.%.mlp.up_proj.bias", "blk.%.ffn_up.bias", UP, false},
    {"layers.%.mlp.down.weight", "model.layers.%.mlp.down_proj.weight", "blk.%.ffn_down.weight", WHOLE,
     false},
    {"layers.%.mlp.down.bias", "model.layers.%.mlp.down_proj.bias", "blk.%.ffn_down.bias", WHOLE, false},
    {"final_norm.gain", "model.norm.weight", "output_norm.weight", WHOLE, false},
    {"vocab.weight", "lm_head.weight", "output.weight", WHOLE, false},
    {0}};

static const NumberRow gpt2_numbers[] = {
    {"vocab_size", NULL, AT(vocab), false, REQUIRED, 0},
    {"n_embd", "embedding_length", AT(hidden), false, REQUIRED, 0},
    {"n_layer", "block_count", AT(layers), false, REQUIRED, 0},
    {"n_head", "attention.head_count", AT(heads), false, REQUIRED, 0},
    {NULL, NULL, AT(kv_heads), false, AS_HEADS, 0},
    {NULL, NULL, AT(head_dim), false, HIDDEN_BY_HEADS, 0},
    {"n_inner", "feed_forward_length", AT(mlp), false, FROM_HIDDEN, 4},
    {"n_positions", "context_length", AT(max_positions), false, REQUIRED, 0},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", AT(norm_epsilon), true, FALLBACK, 1e-5},
    {0}};

static const NumberRow llama_numbers[] = {
    {"vocab_size", NULL, AT(vocab), false, REQUIRED, 0},
    {"hidden_size", "embedding_length", AT(hidden), false, REQUIRED, 0},
    {"num_hidden_layers", "block_count", AT(layers), false, REQUIRED, 0},
    {"num_attention_heads", "attention.head_count", AT(heads), false, REQUIRED, 0},
    {"num_key_value_heads", "attention.head_count_kv", AT(kv_heads), false, AS_HEADS, 0},
    {"head_dim", "attention.key_length", AT(head_dim), false, HIDDEN_BY_HEADS, 0},
    {"intermediate_size", "feed_forward_length", AT(mlp), false, REQUIRED, 0},
    {"max_position_embeddings", "context_length", AT(max_positions), false, REQUIRED, 0},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", AT(norm_epsilon), true, FALLBACK, 1e-6},
    {"rope_theta", "rope.freq_base", AT(rope_theta), true, FALLBACK, 10000},
    {0}};

static const Rule gpt2_rules[] = {{"activation_function", {"\"gelu_new\"", "\"gelu_pytorch_tanh\""}},
                                  {"scale_attn_weights", {"true"}},
                                  {"scale_attn_by_inverse_layer_idx", {"false"}},
                                  {"add_cross_attention", {"false"}},
                                  {0}};
static const Rule llama_rules[] = {{"hidden_act", {"\"silu\"", "\"swish\""}}, {0}};
static const Rule qwen_rules[] = {{"hidden_act", {"\"silu\"", "\"swish\""}},
                                  {"attention_bias", {"false"}},
                                  {"use_sliding_window", {"false"}},
                                  {0}};

const Family families[] = {
    {.model_type = "gpt2",
     .architecture = "GPT2LMHeadModel",
     .gguf = "gpt2",
     .prefix = "transformer.",
     .tensors = gpt2_tensors,
     .numbers = gpt2_numbers,
     .rules = gpt2_rules,
     .tied = true,
     .form = {.norm = NORM_LAYER,
              .activation = ACTIVATION_GELU,
              .rope_theta = 10000,
              .bias = true,
              .qkv_bias = true}},
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .gguf = "llama",
     .prefix = "model.",
     .tensors = llama_tensors,
     .numbers = llama_numbers,
     .rules = llama_rules,
     .biases = true,
     .gguf_turned = true,
     .form = {.norm = NORM_RMS, .activation = ACTIVATION_SWIGLU, .rope = true}},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .gguf = "llama",
     .prefix = "model.",
     .tensors = llama_tensors,
     .numbers = llama_numbers,
     .rules = llama_rules,
     .gguf_turned = true,
     .form = {.norm = NORM_RMS, .activation = ACTIVATION_SWIGLU, .rope = true}},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .gguf = "qwen2",
     .prefix = "model.",
     .tensors = llama_tensors,
     .numbers = llama_numbers,
     .rules = qwen_rules,
     .window_off = true,
     .form = {.norm = NORM_RMS, .activation = ACTIVATION_SWIGLU, .rope = true, .qkv_bias = true}},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .gguf = "qwen3",
     .prefix = "model.",
     .tensors = llama_tensors,
     .numbers = llama_numbers,
     .rules = qwen_rules,
     .window_off = true,
     .form = {.norm = NORM_RMS, .activation = ACTIVATION_SWIGLU, .rope = true, .qk_norm = true}},
};
const int family_count = sizeof families / sizeof *families;

const char *family_name(const Family *family) { return family->model_type; }
const char *family_prefix(const Family *family) { return family->prefix; }

/* ---- numbers ---- */

static int *int_at(DecoderConfig *config, size_t offset) { return (int *)(void *)((char *)config + offset); }

void family_fill_missing(const NumberRow *row, DecoderConfig *out) {
  int *at = int_at(out, row->offset);
  if (row->missing == AS_HEADS) *at = out->heads;
  if (row->missing == HIDDEN_BY_HEADS) *at = out->hidden / out->heads;
  if (row->missing == FROM_HIDDEN) *at = (int)row->fallback * out->hidden;
  if (row->missing == FALLBACK) *(float *)(void *)at = (float)row->fallback;
}

Status family_store_number(const NumberRow *row, const char *where, const char *key, double value,
                           DecoderConfig *out) {
  if (row->real) {
    if (!(value > 0 && value < 1e15))
      return fail(INVALID, "%s: \"%s\" is not a positive number; correct it", where, key);
    *(float *)(void *)int_at(out, row->offset) = (float)value;
    return OK;
  }
  if (!(value >= 1 && value <= 1 << 24) || value != floor(value))
    return fail(INVALID, "%s: \"%s\" is not a whole number from 1 to %d; correct it", where, key, 1 << 24);
  *int_at(out, row->offset) = (int)value;
  return OK;
}

Status family_limit_context(const char *path, int context, double window, DecoderConfig *out) {
  if (context > out->max_positions)
    return fail(INVALID, "%s: the model's context has %d tokens, not %d; give a lower --context", path,
                out->max_positions, context);
  if (context && !out->rope && context != out->max_positions)
    return fail(INVALID, "%s: the model's positions are learned, %d of them; leave --context out", path,
                out->max_positions);
  if (context) out->max_positions = context;
  if (window > 0 && window < out->max_positions)
    return fail(
        INVALID,
        "%s: attention slides over a window of %.0f tokens, which the decoder does not do beyond it; give "
        "--context %.0f",
        path, window, window);
  return decoder_config_check(path, out);
}

/* ---- tensors ---- */

Status family_of(const DecoderConfig *c, const Family **out) {
  for (int i = 0; i < family_count; i++) {
    const DecoderConfig *f = &families[i].form;
    bool biases =
        families[i].biases ? c->bias == c->qkv_bias : c->bias == f->bias && c->qkv_bias == f->qkv_bias;
    bool gpt2 = f->activation == ACTIVATION_GELU;
    bool shape = !gpt2 || (c->kv_heads == c->heads && c->head_dim * c->heads == c->hidden);
    *out = &families[i];
    if (biases && shape && c->norm == f->norm && c->rope == f->rope && c->activation == f->activation &&
        c->qk_norm == f->qk_norm)
      return OK;
  }
  return fail(
      INVALID,
      "the model's form (norm, positions, activation, biases) is none of the families that other tools know: "
      "gpt2, llama, qwen2, qwen3; train one of those to export it");
}

static const char *numbered(Arena *arena, const char *pattern, int layer) {
  const char *mark = strchr(pattern, '%');
  return mark ? arena_print(arena, "%.*s%d%s", (int)(mark - pattern), pattern, layer, mark + 1) : pattern;
}

/* The rows of a fused parameter that a part is: queries, keys, values one after the other, the gate before
 * up. */
static void place_part(const DecoderConfig *c, Part part, Slice *slice) {
  int64_t query = (int64_t)c->heads * c->head_dim, key = (int64_t)c->kv_heads * c->head_dim;
  if (part == WHOLE) return;
  if (part == GATE || part == UP) {
    slice->rows = c->mlp;
    slice->first = part == UP ? c->mlp : 0;
    return;
  }
  slice->rows = part == QUERY ? query : key;
  slice->first = part == QUERY ? 0 : part == KEY ? query : query + key;
}

void family_slices(Arena *arena, const Family *family, const DecoderConfig *config, Outside outside,
                   Slice **out, int *count) {
  Parameters parameters = {0};
  Decoder decoder;
  decoder_declare(&decoder, arena, config, &parameters);
  int rows = 0;
  while (family->tensors[rows].parameter) rows++;
  *out = NEW(arena, Slice, (int64_t)rows * config->layers);
  *count = 0;
  for (int r = 0; r < rows; r++) {
    const TensorRow *row = &family->tensors[r];
    int layers = strchr(row->parameter, '%') ? config->layers : 1, at = 0;
    for (int layer = 0; layer < layers; layer++) {
      const char *parameter = numbered(arena, row->parameter, layer);
      while (at < parameters.count && strcmp(parameters.list[at].name, parameter) != 0) at++;
      if (at == parameters.count) break; /* models of this form have none */
      Slice *slice = &(*out)[(*count)++];
      *slice = (Slice){.name = numbered(arena, outside == OUTSIDE_HF ? row->hf : row->gguf, layer),
                       .parameter = parameters.list[at].name,
                       .rows = parameters.list[at].shape[0],
                       .cols = parameters.list[at].rank == 2 ? parameters.list[at].shape[1] : 0,
                       .transposed = outside == OUTSIDE_HF && row->transposed};
      place_part(config, row->part, slice);
      bool turns = row->part == QUERY || row->part == KEY;
      if (outside == OUTSIDE_GGUF && family->gguf_turned && turns) slice->turned = config->head_dim;
    }
  }
}

bool family_ignores(const char *name) {
  static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
  for (int i = 0; i < 3; i++) {
    size_t length = strlen(name), ending = strlen(endings[i]);
    if (length >= ending && strcmp(name + length - ending, endings[i]) == 0) return true;
  }
  return false;
}
