/* A stage: reads the folders of the stages before it, runs, and leaves a folder of its own. It knows
 * nothing of arms, keys or caching; plan.c does. */
#ifndef POPALM_STAGE_H
#define POPALM_STAGE_H

#include "backend.h"
#include "base/arena.h"
#include "base/status.h"
#include "experiment.h"
#include "memory.h"

typedef enum StageId {
  STAGE_WORLD,        /* only with data.synth: train.json, dev.json, pairs.json, world.json */
  STAGE_TOKENIZER,    /* tokenizer.json */
  STAGE_SFT,          /* model.safetensors, model.json */
  STAGE_REWARD,       /* the same plus the head; reward.json: pair_accuracy, by_like_ratio, shift, scale */
  STAGE_EVALUATE_SFT, /* evaluate.json, replies.jsonl */
  STAGE_PPO,          /* model.safetensors, model.json, samples.jsonl */
  STAGE_EVALUATE_PPO,
  STAGE_COUNT
} StageId;

typedef struct StageContext {
  const Experiment *experiment;
  Backend *backend;               /* NULL for stages that need none (world, tokenizer) */
  Arena *arena;                   /* as long as the stage */
  const char *folder;             /* this stage's own; may hold state.safetensors of an interrupted run */
  const char *input[STAGE_COUNT]; /* folders of finished stages that this one depends on, else NULL */
  const char *train, *dev, *pairs; /* data files, from the world stage or from the experiment */
  const char *label;              /* for progress: "ppo cl-ppo seed 2" */
} StageContext;

typedef struct Stage {
  const char *name; /* in folder names: runs/stages/<name>-<key> */
  Status (*run)(const StageContext *);
  bool needs_backend;
  StageId inputs[STAGE_COUNT]; /* stages it reads; the world is implied by data */
  int input_count;
  bool (*reads_inputs)(const Experiment *); /* whether this experiment needs them; NULL: yes */
  const char *sections[8]; /* paths of the resolved experiment that are part of its key, NULL-terminated */
  bool reads_train, reads_dev, reads_pairs; /* whose content is part of its key */
  MemoryNeed (*memory)(const MemoryQuestion *); /* what it takes; NULL: next to nothing */
} Stage;

extern const Stage stages[STAGE_COUNT]; /* stage.c */

Status stage_world(const StageContext *) CHECKED;
Status stage_tokenizer(const StageContext *) CHECKED;
Status stage_sft(const StageContext *) CHECKED;
Status stage_reward(const StageContext *) CHECKED;
Status stage_ppo(const StageContext *) CHECKED;
Status stage_evaluate_sft(const StageContext *) CHECKED;
Status stage_evaluate_ppo(const StageContext *) CHECKED;

#endif
