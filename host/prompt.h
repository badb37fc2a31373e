/* Texts to model input: instruction post <sep> reply <eos>, after the start tokens of a pretrained model. */
#ifndef POPALM_PROMPT_H
#define POPALM_PROMPT_H

#include "experiment.h"
#include "models/config.h"
#include "tokenizer.h"

typedef struct PromptCodec {
  const Tokenizer *tokenizer;
  const int32_t *instruction; /* [instruction_count], the tokenizer's own start first */
  int instruction_count, start_count, max_post_tokens, max_reply_tokens;
  const char *instruction_text;
} PromptCodec;

PromptCodec prompt_codec(Arena *arena, const Tokenizer *tokenizer, const char *instruction,
                         int max_post_tokens, int max_reply_tokens);
/* The longest prompt, and the longest prompt with its reply (also the reward model's longest input). */
int prompt_max(const PromptCodec *codec);
int sequence_max(const PromptCodec *codec);
/* INVALID when the longest sequence is longer than the model's context. */
Status prompt_check(const PromptCodec *codec, const DecoderConfig *config, const char *preset) CHECKED;

/* instruction, post (cut to max_post_tokens), <sep>. out has room for prompt_max. Returns the count. */
int prompt_encode(const PromptCodec *codec, const char *post, int32_t *out);
/* The reply and <eos>, at most max_reply_tokens; a reply that is cut has no <eos>, so that nothing learns to
 * stop there. Returns the count. */
int reply_encode(const PromptCodec *codec, const char *reply, int32_t *out);
/* The reward model's input: post <sep> reply <eos> with the instruction, or reply <sep> post <eos>. Always
 * ends in <eos>, whose row is scored; begins with the start tokens. out has room for sequence_max. *shared:
 * tokens of the post, which every reply to it has in front; 0 where the reply is. */
int reward_encode(const PromptCodec *codec, RewardInput input, const char *post, const char *reply,
                  int32_t *out, int *shared);

/* What generate needs beside a model: folder/prompt.json and a copy of the tokenizer. */
Status prompt_save(const PromptCodec *codec, const SamplingSettings *sampling, const char *folder) CHECKED;
Status prompt_load(Arena *arena, const char *folder, PromptCodec *codec, SamplingSettings *sampling) CHECKED;

#endif
