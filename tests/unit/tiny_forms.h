/* Tiny decoders in the forms of the families, for tests that need one of each. */
#ifndef POPALM_TESTS_TINY_FORMS_H
#define POPALM_TESTS_TINY_FORMS_H

#include "models/config.h"

/* Qwen 3 has a norm of queries and keys, and heads wider than H / heads. */
typedef enum Form { GPT2, LLAMA, QWEN3, FORMS } Form;

/* vocab is the caller's, as is any other size that its test needs. GPT-2's heads fill the hidden size. */
static inline DecoderConfig tiny_form(Form form, int vocab) {
  bool llama = form != GPT2;
  return (DecoderConfig){.vocab = vocab,
                         .hidden = 16,
                         .layers = 2,
                         .heads = llama ? 4 : 2,
                         .kv_heads = 2,
                         .head_dim = form == QWEN3 ? 16 : 8,
                         .mlp = 24,
                         .max_positions = 64,
                         .norm = llama ? NORM_RMS : NORM_LAYER,
                         .norm_epsilon = 1e-5f,
                         .rope = llama,
                         .rope_theta = 10000,
                         .activation = llama ? ACTIVATION_SWIGLU : ACTIVATION_GELU,
                         .bias = !llama,
                         .qkv_bias = form != QWEN3,
                         .qk_norm = form == QWEN3,
                         .tied = !llama};
}

#endif
