/* One experiment, resolved: every default filled in. experiment_keys.c holds ONE table of keys (path, type,
 * range, default, sentence of help), which feeds the parser, --set, the schema and the docs. */
#ifndef POPALM_EXPERIMENT_H
#define POPALM_EXPERIMENT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend.h"
#include "base/arena.h"
#include "base/json.h"
#include "base/status.h"
#include "base/text.h"
#include "text_metrics.h"
#include "world.h"

typedef struct DataSettings {
  const char *train, *dev, *pairs; /* paths as found from the experiment file's folder; NULL with synth */
  bool synth;                      /* data.synth is an object: the files are made by the world stage */
  WorldSettings world;
  const char *instruction;               /* stands before every post */
  int max_post_tokens, max_reply_tokens; /* longer ones are cut */
} DataSettings;

typedef struct TokenizerSettings {
  const char *path; /* an existing tokenizer.json, or NULL: train one */
  int vocab_size, min_frequency;
} TokenizerSettings;

typedef enum LrSchedule { LR_CONSTANT, LR_COSINE, LR_LINEAR } LrSchedule;

/* What every training stage has. */
typedef struct OptimizerSettings {
  double lr, warmup; /* warmup: fraction of the steps */
  LrSchedule schedule;
  double beta1, beta2, epsilon, weight_decay, grad_clip;
} OptimizerSettings;

typedef struct SftSettings {
  double epochs;
  int tokens_per_batch;
  int replies_per_post; /* the most liked so many; 0: all */
  OptimizerSettings optimizer;
} SftSettings;

typedef enum RewardInit { REWARD_INIT_SFT, REWARD_INIT_RANDOM } RewardInit;
typedef enum RewardOrient { ORIENT_LIKES, ORIENT_AS_LISTED } RewardOrient;
typedef enum RewardInput { INPUT_POST_REPLY, INPUT_REPLY_POST } RewardInput;

typedef struct RewardSettings {
  const char *from;   /* "reward.from": the folder of a model with a tokenizer of its own, or NULL */
  const char *preset; /* "reward.preset": an untrained model of another form, or NULL */
  bool adapter;       /* of from, only an adapter is trained */
  int max_post_tokens, max_reply_tokens; /* of its own tokenizer; 0: as the policy's */
  RewardInit init;                       /* without from and preset */
  RewardOrient orient;
  RewardInput input;
  double epochs;
  int pairs_per_batch;
  double holdout;        /* share of the posts whose pairs are never trained on */
  double min_like_ratio; /* pairs closer than this are left out of training; 1: none */
  double margin;         /* margin = this * ln(like ratio) */
  double smoothing;
  OptimizerSettings optimizer;
} RewardSettings;

typedef enum Critic { CRITIC_SHARED, CRITIC_REWARD } Critic;
typedef enum KlControl { KL_CONTROL_ADAPTIVE, KL_CONTROL_FIXED } KlControl;
typedef enum EnhanceMetric {
  ENHANCE_NONE,
  ENHANCE_ROUGE_1,
  ENHANCE_ROUGE_2,
  ENHANCE_ROUGE_L,
  ENHANCE_BLEU_4
} EnhanceMetric;
typedef enum RankScope { RANK_NONE, RANK_BATCH, RANK_POST } RankScope;
typedef enum PaceKind { PACE_NONE, PACE_REWARD_PROB, PACE_QUANTILE } PaceKind;
typedef enum PaceProb { PROB_PRODUCT, PROB_GEOMETRIC } PaceProb;
typedef enum PaceQ { Q_LINEAR, Q_ROOT, Q_EXPONENTIAL, Q_STEP, Q_COMPETENCE } PaceQ;
typedef enum Difficulty {
  DIFFICULTY_REWARD_PROB,
  DIFFICULTY_REWARD,
  DIFFICULTY_LOGPROB,
  DIFFICULTY_LENGTH,
  DIFFICULTY_LIKE_GAP
} Difficulty;
typedef enum PaceOrder { ORDER_EASY, ORDER_HARD, ORDER_RANDOM } PaceOrder;

/* Reward enhancement, reward ranking, self-paced sampling. "curriculum": null in the file is plain PPO:
 * all three none. */
typedef struct CurriculumSettings {
  EnhanceMetric enhance;
  double enhance_weight;
  RankScope rank;
  double rank_keep; /* share of the batch (scope batch) or of each post's samples (scope post) */
  PaceKind pace;
  double pace_start, pace_decay; /* reward_prob: lambda at step 0 and its factor a step */
  PaceProb pace_prob;
  bool pace_absolute;   /* compare |R prob| (released code) instead of R prob (the paper's figure) */
  PaceQ pace_q;         /* quantile: share kept as a function of the training's progress ... */
  double pace_q_start;  /* ... from this share */
  double pace_q_end_at; /* ... to all at this fraction of the steps */
  Difficulty pace_difficulty;
  PaceOrder pace_order;
} CurriculumSettings;

typedef struct SamplingSettings {
  double temperature, top_p;
  int top_k;
} SamplingSettings;

typedef struct PpoSettings {
  int posts_per_step, samples_per_post, steps, epochs;
  int minibatch; /* samples */
  double gamma, lambda, clip, clip_high /* 0: as clip */, dual_clip /* 0: none */, value_clip, value_coef;
  Critic critic;
  bool whiten;
  KlControl kl_control;
  KlKind kl_kind;
  double kl_coef, kl_target, kl_horizon;
  double entropy_coef;
  double missing_eos_penalty; /* taken from the reward of a reply that never ends */
  SamplingSettings sampling;
  CurriculumSettings curriculum;
  OptimizerSettings optimizer;
  int sample_every; /* steps between rows of samples.jsonl */
} PpoSettings;

enum { MAX_TOPS = 8 };

typedef struct EvaluateSettings {
  const char *split;             /* "dev" or "train" */
  int posts;                     /* at most so many; 0: all */
  int tops[MAX_TOPS], top_count; /* "replies": [1, 3, 5] */
  Segmentation segmentation;
  const char *dictionary; /* path, for words */
  SamplingSettings sampling;
} EvaluateSettings;

/* What must hold between stages; 0: no gate. They stop runs and change no result, so they are part of no key.
 */
typedef struct GateSettings {
  double perplexity;      /* of the held-out replies after SFT, at most */
  double reward_accuracy; /* of the reward model on held-out pairs, at least */
  double ended;           /* share of the SFT model's replies that end, at least */
} GateSettings;

/* "adapter": a low-rank adapter, a prefix or both instead of all weights. */
typedef struct AdapterSettings {
  int rank; /* 0: none */
  double alpha, dropout;
  const char *targets; /* names of LoraTarget, with commas */
  int prefix_tokens;   /* 0: none */
  WeightType base;     /* what the frozen matrices stand in */
} AdapterSettings;

typedef struct CheckpointSettings {
  int every_steps;
  double every_seconds;
} CheckpointSettings;

typedef struct Experiment {
  const char *name;
  uint64_t seed;
  const char *device;
  const char *model_preset; /* "model.preset": a name under models/presets or a path to a JSON file */
  const char
      *model_from; /* "model.from": the folder of a model to start from, or NULL: the preset, untrained */
  AdapterSettings adapter;
  DataSettings data;
  TokenizerSettings tokenizer;
  SftSettings sft;
  RewardSettings reward;
  PpoSettings ppo;
  EvaluateSettings evaluate;
  GateSettings gates;
  CheckpointSettings checkpoint;
  bool recompute; /* "memory.recompute" */
  cJSON *resolved; /* the same as JSON, every default filled in, for experiment.json and the stage keys */
} Experiment;

typedef struct Override { /* --set path=value; value is JSON, or a bare string */
  const char *path, *value;
} Override;

/* One arm of an ablation with one seed. An experiment without "ablate" has one arm, called "main". */
typedef struct ExperimentRun {
  const char *arm;
  Experiment experiment;
} ExperimentRun;

typedef struct ExperimentFile {
  const char *path, *name;
  cJSON *resolved;     /* with "ablate" */
  ExperimentRun *runs; /* arms (named ones, then the grid's) x seeds, arm by arm */
  int run_count, arm_count, seed_count;
  const char *baseline; /* the arm that the others are compared with; NULL without "ablate" */
  int *base_of; /* [arm_count] the arm that each is compared with; itself: none. NULL without "ablate" */
  const char *metric; /* a name of results.json, "reward" or "rouge_l@3"; NULL without "ablate" */
} ExperimentFile;

/* Reads, merges ("extends", then --set), validates everything and resolves. Every error is INVALID with
 * file:line:column, what is wrong, the nearest known key, and what to do. */
Status experiment_read(Arena *arena, const char *path, const Override *overrides, int override_count,
                       ExperimentFile *out) CHECKED;
/* The resolved trees; everything else is the arena's. */
void experiment_free(ExperimentFile *file);
/* Whether the value at this dotted path is a file's name (whose content, not whose name, makes a difference).
 */
bool experiment_key_names_file(const char *path);
/* The share `keep` of count samples, whole; the small term makes 3 * (1/3) be 1. */
double rank_share(double count, double keep);
/* How many of a step's samples ranking leaves, before the pace. */
double ranked_samples(const PpoSettings *ppo);

/* The JSON schema and the reference page, from the same table. */
cJSON *experiment_schema(void);
void experiment_reference(Text *out); /* Markdown */

#endif
