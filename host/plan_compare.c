/* The comparison of arms in results.json: one row an arm and metric, paired by seed against the baseline. */
#include <math.h>
#include <string.h>

#include "plan.h"
#include "statistics.h"

/* Three tests of the same differences; each is corrected for the number of arms by itself. */
typedef enum Test { SIGN_FLIP, BOOTSTRAP, SIGN, TESTS } Test;
static const char *const test_names[TESTS][2] = {
    {"p_value", "p_holm"}, {"p_bootstrap", "p_bootstrap_holm"}, {"p_sign", "p_sign_holm"}};

/* One metric of all arms. A seed counts for an arm when both it and the baseline have the metric. */
typedef struct ArmRow {
  Interval mean, gain, bootstrap;
  double effect, p[TESTS], corrected[TESTS];
  int seeds, pairs,
      wins; /* seeds with the metric; pairs with the baseline; pairs in which the arm is higher */
} ArmRow;

typedef struct Comparison {
  const Plan *plan;
  const cJSON *runs;
  Arena *arena;
  int arms, seeds, comparisons; /* comparisons: arms that have a baseline */
  Bootstrap bootstrap;          /* of as many pairs as were asked for last */
} Comparison;

/* The metric of the PPO model in run, NaN when it is not there. */
static double metric_of(const cJSON *runs, int run, const char *metric) {
  const cJSON *evaluate = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(runs, run), "evaluate");
  const cJSON *value =
      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(evaluate, "ppo"), metric);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static ArmRow compare_arm(Comparison *c, int arm, const char *metric) {
  double *value = NEW(c->arena, double, c->seeds), *difference = NEW(c->arena, double, c->seeds);
  int base = c->plan->file->base_of[arm];
  ArmRow row = {.effect = NAN, .p = {NAN, NAN, NAN}};
  for (int i = 0; i < c->seeds; i++) {
    double own = metric_of(c->runs, arm * c->seeds + i, metric),
           other = metric_of(c->runs, base * c->seeds + i, metric);
    if (!isnan(own)) value[row.seeds++] = own;
    if (isnan(own - other)) continue;
    row.wins += own > other;
    difference[row.pairs++] = own - other;
  }
  row.mean = interval_95(value, row.seeds);
  row.gain = row.bootstrap = interval_95(difference, row.pairs);
  if (arm == base || row.pairs < 2) return row;
  if (c->bootstrap.count != row.pairs) c->bootstrap = bootstrap_make(c->arena, row.pairs);
  row.bootstrap = bootstrap_95(&c->bootstrap, difference, &row.p[BOOTSTRAP]);
  row.p[SIGN_FLIP] = sign_flip_p(difference, row.pairs);
  row.p[SIGN] = sign_test_p(difference, row.pairs);
  row.effect = effect_size(difference, row.pairs);
  return row;
}

static void correct(const Comparison *c, ArmRow *rows) {
  double *p = NEW(c->arena, double, c->arms);
  for (Test test = 0; test < TESTS; test++) {
    for (int arm = 0; arm < c->arms; arm++) p[arm] = rows[arm].p[test];
    holm(p, c->arms);
    for (int arm = 0; arm < c->arms; arm++) rows[arm].corrected[test] = p[arm];
  }
}

static void add_ends(cJSON *row, const char *name, Interval interval) {
  cJSON *ends = cJSON_AddArrayToObject(row, name);
  cJSON_AddItemToArray(ends, cJSON_CreateNumber(interval.low));
  cJSON_AddItemToArray(ends, cJSON_CreateNumber(interval.high));
}

static void add_row(const Comparison *c, int arm, const char *metric, const ArmRow *of, cJSON *comparison) {
  cJSON *row = cJSON_CreateObject();
  cJSON_AddItemToArray(comparison, row);
  cJSON_AddStringToObject(row, "arm", c->plan->file->runs[arm * c->seeds].arm);
  cJSON_AddStringToObject(row, "metric", metric);
  cJSON_AddNumberToObject(row, "seeds", of->seeds);
  cJSON_AddNumberToObject(row, "mean", of->mean.mean);
  add_ends(row, "ci95", of->mean);
  int base = c->plan->file->base_of[arm];
  if (arm == base) return;
  cJSON_AddStringToObject(row, "baseline", c->plan->file->runs[base * c->seeds].arm);
  cJSON_AddNumberToObject(row, "pairs", of->pairs);
  cJSON_AddNumberToObject(row, "wins", of->wins);
  cJSON_AddNumberToObject(row, "difference", of->gain.mean);
  add_ends(row, "difference_ci95", of->gain);
  add_ends(row, "bootstrap_ci95", of->bootstrap);
  cJSON_AddNumberToObject(row, "effect_size", of->effect);
  for (Test test = 0; test < TESTS; test++) {
    cJSON_AddNumberToObject(row, test_names[test][0], of->p[test]);
    cJSON_AddNumberToObject(row, test_names[test][1], of->corrected[test]);
  }
}

/* One row an arm: runs are arm by arm, seeds within, so run = arm * seeds + seed. *fewest: of the pairs that
 * an arm has with the baseline. */
static void compare_metric(Comparison *c, const char *metric, cJSON *comparison, int *fewest) {
  ArmRow *rows = NEW(c->arena, ArmRow, c->arms);
  *fewest = c->seeds;
  for (int arm = 0; arm < c->arms; arm++) {
    rows[arm] = compare_arm(c, arm, metric);
    if (rows[arm].pairs < *fewest) *fewest = rows[arm].pairs;
  }
  correct(c, rows);
  for (int arm = 0; arm < c->arms; arm++) add_row(c, arm, metric, &rows[arm], comparison);
}

/* The numbers of the first run that has an evaluation after PPO; NULL when gates have stopped all. */
static const cJSON *first_metrics(const cJSON *runs) {
  for (const cJSON *run = runs->child; run; run = run->next) {
    const cJSON *ppo =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(run, "evaluate"), "ppo");
    if (ppo) return ppo;
  }
  return NULL;
}

static void warn_of_few_pairs(const Comparison *c, int fewest, cJSON *results) {
  int comparisons = c->comparisons;
  if (comparisons < 1 || smallest_p(fewest, comparisons) < 0.05) return;
  cJSON_AddStringToObject(
      results, "warning",
      arena_print(c->arena,
                  "%d seed%s cannot tell %d arm%s from %s baseline: after Holm's correction the smallest "
                  "possible p is %.2g; %d seeds can give one below 0.05",
                  fewest, fewest == 1 ? "" : "s", comparisons, comparisons == 1 ? "" : "s",
                  comparisons == 1 ? "its" : "their", smallest_p(fewest, comparisons),
                  pairs_needed(comparisons)));
}

/* The metric that the experiment names comes first; then every number that the evaluation wrote. */
Status plan_compare(Arena *arena, const Plan *plan, const cJSON *runs, cJSON *results) {
  const ExperimentFile *file = plan->file;
  cJSON *comparison = cJSON_AddArrayToObject(results, "comparison");
  const cJSON *metrics = first_metrics(runs);
  if (!file->baseline || !metrics) return OK;
  if (!cJSON_GetObjectItemCaseSensitive(metrics, file->metric))
    return fail(FAILED, "%s: no evaluation has \"%s\"; choose another \"ablate.metric\"", file->path,
                file->metric);
  Comparison c = {
      .plan = plan, .runs = runs, .arena = arena, .arms = file->arm_count, .seeds = file->seed_count};
  for (int arm = 0; arm < c.arms; arm++) c.comparisons += file->base_of[arm] != arm;
  int fewest, unused;
  compare_metric(&c, file->metric, comparison, &fewest);
  warn_of_few_pairs(&c, fewest, results);
  for (const cJSON *item = metrics->child; item; item = item->next)
    if (cJSON_IsNumber(item) && strcmp(item->string, file->metric) != 0)
      compare_metric(&c, item->string, comparison, &unused);
  return OK;
}
