#include "stage.h"

/* A model that is started from brings its tokenizer along; the policy is then only asked for texts. */
static bool reward_reads(const Experiment *experiment, StageId input) {
  (void)input;
  return !experiment->reward.from;
}

/* The stages in the order in which they run. A key covers sections, inputs' keys and data content. */
const Stage stages[STAGE_COUNT] = {
    [STAGE_WORLD] = {.name = "world", .run = stage_world, .sections = {"data.synth"}},
    [STAGE_TOKENIZER] = {.name = "tokenizer",
                         .run = stage_tokenizer,
                         .sections = {"tokenizer"},
                         .reads_train = true},
    [STAGE_SFT] = {.name = "sft",
                   .run = stage_sft,
                   .needs_backend = true,
                   .inputs = {STAGE_TOKENIZER},
                   .input_count = 1,
                   .sections = {"seed", "model", "adapter", "sft", "data.instruction", "data.max_post_tokens",
                                "data.max_reply_tokens"},
                   .reads_train = true,
                   .reads_dev = true},
    [STAGE_REWARD] = {.name = "reward",
                      .run = stage_reward,
                      .needs_backend = true,
                      .inputs = {STAGE_TOKENIZER, STAGE_SFT},
                      .input_count = 2,
                      .reads = reward_reads,
                      .sections = {"seed", "reward", "adapter", "data.instruction", "data.max_post_tokens",
                                   "data.max_reply_tokens"},
                      .reads_train = true,
                      .reads_pairs = true},
    [STAGE_EVALUATE_SFT] = {.name = "evaluate",
                            .run = stage_evaluate_sft,
                            .needs_backend = true,
                            .inputs = {STAGE_TOKENIZER, STAGE_SFT, STAGE_REWARD},
                            .input_count = 3,
                            .sections = {"seed", "evaluate"},
                            .reads_train = true,
                            .reads_dev = true},
    [STAGE_PPO] = {.name = "ppo",
                   .run = stage_ppo,
                   .needs_backend = true,
                   .inputs = {STAGE_TOKENIZER, STAGE_SFT, STAGE_REWARD},
                   .input_count = 3,
                   .sections = {"seed", "ppo"},
                   .reads_train = true},
    [STAGE_EVALUATE_PPO] = {.name = "evaluate",
                            .run = stage_evaluate_ppo,
                            .needs_backend = true,
                            .inputs = {STAGE_TOKENIZER, STAGE_SFT, STAGE_REWARD, STAGE_PPO,
                                       STAGE_EVALUATE_SFT},
                            .input_count = 5,
                            .sections = {"seed", "evaluate"},
                            .reads_train = true,
                            .reads_dev = true},
};
