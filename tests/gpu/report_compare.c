/* The same experiment on two devices gives other samples: rounding differs, and one other token leads to other
 * replies. So what is compared are means over arms and seeds, within about twice the distance of two seeds of
 * the quickstart on one device. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

typedef struct Metric {
  const char *section, *stage, *name; /* section: "reward" (no stage) or "evaluate" */
  double tolerance;                   /* absolute */
} Metric;

static const Metric metrics[] = {
    {"reward", NULL, "pair_accuracy", 0.04}, {"evaluate", "sft", "rouge_1@1", 0.05},
    {"evaluate", "sft", "rouge_l@1", 0.05},  {"evaluate", "sft", "reply_length", 0.8},
    {"evaluate", "sft", "ended", 0.03},      {"evaluate", "sft", "oracle_popularity", 0.03},
    {"evaluate", "ppo", "rouge_1@1", 0.08},  {"evaluate", "ppo", "reply_length", 1.5},
    {"evaluate", "ppo", "ended", 0.03},      {"evaluate", "ppo", "oracle_popularity", 0.03},
    {"evaluate", "ppo", "win_rate", 0.12},
};

/* The mean over the runs; NaN if one has no such number. */
static double mean_of(const cJSON *root, const Metric *metric) {
  const cJSON *run;
  double sum = 0;
  int count = 0;
  cJSON_ArrayForEach(run, cJSON_GetObjectItemCaseSensitive(root, "runs")) {
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(run, metric->section);
    if (metric->stage) at = cJSON_GetObjectItemCaseSensitive(at, metric->stage);
    at = cJSON_GetObjectItemCaseSensitive(at, metric->name);
    sum += cJSON_IsNumber(at) ? at->valuedouble : NAN;
    count++;
  }
  return count ? sum / count : NAN;
}

Status report_compare(Arena *arena, const char *reference, const char *other, bool *same) {
  Json a, b;
  TRY(json_read(arena, reference, &a));
  Status status = json_read(arena, other, &b);
  if (status != OK) {
    json_free(&a);
    return status;
  }
  *same = true;
  for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
    const Metric *m = &metrics[i];
    double x = mean_of(a.root, m), y = mean_of(b.root, m);
    bool near = fabs(x - y) <= m->tolerance; /* NaN is not */
    printf("%-9s %-4s %-18s %9.4f %9.4f  %s %g\n", m->section, m->stage ? m->stage : "", m->name, x, y,
           near ? "within" : "FURTHER APART THAN", m->tolerance);
    *same &= near;
  }
  json_free(&a);
  json_free(&b);
  return OK;
}
