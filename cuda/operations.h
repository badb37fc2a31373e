/* The backend's table of operations. The emulator of the tests fills its own from here too, so that an operation
 * that is missing there is missing everywhere. */
#ifndef POPALM_CUDA_OPERATIONS_H
#define POPALM_CUDA_OPERATIONS_H

#include "cuda_backend.h"

static inline void cuda_fill_operations(Backend *backend) {
  backend->storage = BF16;
  backend->convert = cuda_convert;
  backend->embedding = cuda_embedding;
  backend->embedding_backward = cuda_embedding_backward;
  backend->linear = cuda_linear;
  backend->linear_backward = cuda_linear_backward;
  backend->norm = cuda_norm;
  backend->norm_backward = cuda_norm_backward;
  backend->qk_norm = cuda_qk_norm;
  backend->qk_norm_backward = cuda_qk_norm_backward;
  backend->rope = cuda_rope;
  backend->attention = cuda_attention;
  backend->attention_backward = cuda_attention_backward;
  backend->kv_store = cuda_kv_store;
  backend->attention_decode = cuda_attention_decode;
  backend->activation = cuda_activation;
  backend->activation_backward = cuda_activation_backward;
  backend->dropout = cuda_dropout;
  backend->gather_rows = cuda_gather_rows;
  backend->scatter_rows = cuda_scatter_rows;
  backend->vocab = cuda_vocab;
  backend->vocab_backward = cuda_vocab_backward;
  backend->vocab_logits = cuda_vocab_logits;
  backend->sample = cuda_sample;
  backend->decode_advance = cuda_decode_advance;
  backend->scalar_head = cuda_scalar_head;
  backend->scalar_head_backward = cuda_scalar_head_backward;
  backend->reward_head = cuda_reward_head;
  backend->ppo_advantage = cuda_ppo_advantage;
  backend->ppo_loss = cuda_ppo_loss;
  backend->grad_norm = cuda_grad_norm;
  backend->adamw = cuda_adamw;
}

#endif
