/* Gates between stages: a number that a finished stage has left, and the limit that stops a run. */
#include <math.h>
#include <string.h>

#include "plan.h"

/* ---- the numbers; NaN when the stage did not measure it ---- */

static Status number_of_file(Arena *arena, const char *folder, const char *name, const char *key,
                             double *out) {
  Json json;
  TRY(json_read(arena, path_join(arena, folder, name), &json));
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(json.root, key);
  *out = cJSON_IsNumber(value) ? value->valuedouble : NAN;
  json_free(&json);
  return OK;
}

static Status reward_accuracy(Arena *arena, const char *folder, double *out) {
  return number_of_file(arena, folder, "reward.json", "pair_accuracy", out);
}

static Status ended(Arena *arena, const char *folder, double *out) {
  return number_of_file(arena, folder, "evaluate.json", "ended", out);
}

/* The last row of SFT's metrics has the held-out perplexity of the finished model. */
static Status perplexity(Arena *arena, const char *folder, double *out) {
  FileMap map;
  *out = NAN;
  TRY(file_map(path_join(arena, folder, "metrics.jsonl"), &map));
  size_t end = map.length, start;
  while (end > 0 && map.data[end - 1] == '\n') end--;
  for (start = end; start > 0 && map.data[start - 1] != '\n';) start--;
  cJSON *row = cJSON_ParseWithLength(map.data + start, end - start);
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, "dev_perplexity");
  if (cJSON_IsNumber(value)) *out = value->valuedouble;
  cJSON_Delete(row);
  file_unmap(&map);
  return OK;
}

/* ---- the table ---- */

static const struct Gate {
  const char *name; /* under "gates" */
  StageId after;
  size_t offset; /* of the limit, a double of GateSettings */
  bool at_most;
  Status (*measure)(Arena *arena, const char *folder, double *out);
  const char *what, *remedy;
} gates[] = {
    {"perplexity", STAGE_SFT, offsetof(GateSettings, perplexity), true, perplexity,
     "the held-out perplexity of the SFT model", "train SFT longer, or raise gates.perplexity"},
    {"reward_accuracy", STAGE_REWARD, offsetof(GateSettings, reward_accuracy), false, reward_accuracy,
     "the reward model's accuracy on held-out pairs",
     "train it longer or on cleaner pairs, or lower "
     "gates.reward_accuracy"},
    {"ended", STAGE_EVALUATE_SFT, offsetof(GateSettings, ended), false, ended,
     "the share of the SFT model's replies that end",
     "train SFT longer or raise data.max_reply_tokens, or lower "
     "gates.ended"},
};
enum { GATES = sizeof gates / sizeof *gates };

static double limit_of(const struct Gate *gate, const GateSettings *settings) {
  return *(const double *)((const char *)settings + gate->offset);
}

static PlanStop judge(Arena *arena, const struct Gate *gate, double value, double limit) {
  bool holds = gate->at_most ? value <= limit : value >= limit; /* an unknown value does not */
  if (holds) return (PlanStop){0};
  const char *reason = isnan(value)
                           ? arena_print(arena, "%s is unknown; %s", gate->what, gate->remedy)
                           : arena_print(arena, "%s is %.4g, %s the gate's %.4g; %s", gate->what, value,
                                         gate->at_most ? "above" : "below", limit, gate->remedy);
  return (PlanStop){gate->name, value, limit, reason};
}

Status plan_check_gates(Arena *arena, Plan *plan, int stage) {
  const PlanStage *finished = &plan->stages[stage];
  for (int g = 0; g < GATES; g++) {
    double value = NAN;
    bool measured = false;
    for (int run = 0; run < plan->file->run_count && gates[g].after == finished->id; run++) {
      double limit = limit_of(&gates[g], &plan->file->runs[run].experiment.gates);
      if (plan->of_run[run][finished->id] != stage || limit == 0 || plan->stops[run].gate) continue;
      if (!measured) TRY(gates[g].measure(arena, finished->folder, &value));
      measured = true;
      plan->stops[run] = judge(arena, &gates[g], value, limit);
    }
  }
  return OK;
}

const PlanStop *plan_all_stopped(const Plan *plan) {
  for (int run = 0; run < plan->file->run_count; run++)
    if (!plan->stops[run].gate) return NULL;
  return &plan->stops[0];
}
