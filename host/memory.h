/* What a training stage takes of memory, stated from its settings before it runs: sums of what its set-up
 * allocates (each module counts its own) and the scratch memory of its largest operation. One process is
 * meant; each of several ranks takes less. */
#ifndef POPALM_MEMORY_H
#define POPALM_MEMORY_H

#include "experiment.h"
#include "models/config.h"

typedef struct MemoryNeed { /* bytes */
  size_t base;              /* frozen weights, once */
  size_t
      parameters; /* weights of all models of the stage; gradients and optimizer states of the trained ones */
  size_t activations; /* of training and scoring, and what else grows with a batch */
  size_t sampler;     /* KV cache, activations and logits of the decode step */
  size_t scratch;     /* of operations, and the backend's own */
  size_t device;      /* all of the above */
  size_t data;        /* on the host: mapped files and their indices, tokenizer, the host's batches */
} MemoryNeed;

typedef struct MemoryQuestion {
  const Experiment *experiment;
  const DecoderConfig *model;     /* with its vocabulary, and the adapter */
  const DecoderConfig *reward;    /* the reward model, likewise */
  const char *kind;               /* of backend: "cpu" or "cuda" */
  int prompt_start, reward_start; /* tokens before every post: the model's start and the instruction */
  size_t files, tokenizer;        /* bytes of the data files that the stage maps, of the tokenizer's file */
} MemoryQuestion;

MemoryNeed memory_sft(const MemoryQuestion *question);
MemoryNeed memory_reward(const MemoryQuestion *question);
MemoryNeed memory_ppo(const MemoryQuestion *question);
MemoryNeed memory_evaluate(const MemoryQuestion *question);

#endif
