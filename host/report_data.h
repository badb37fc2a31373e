/* What a report is made of, read from a run directory. Everything but experiment.json may be missing: a run
 * that is still going has a report too. */
#ifndef POPALM_REPORT_DATA_H
#define POPALM_REPORT_DATA_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/status.h"

/* The rows of a metrics.jsonl by column; NaN where a row lacks the column. */
typedef struct MetricTable {
  int rows, columns;
  const char **names; /* [columns] */
  double *steps;      /* [rows] */
  double **values;    /* [columns][rows] */
} MetricTable;

typedef enum ReportStageId { REPORT_SFT, REPORT_REWARD, REPORT_PPO, REPORT_STAGES } ReportStageId;

typedef struct ReportRun {
  const char *arm, *folder; /* arms/<arm>/seed-<n> */
  int64_t seed;
  int arm_index;
  const char *stage_path[REPORT_STAGES]; /* resolved, so that shared stages can be told; NULL: not there */
  MetricTable metrics[REPORT_STAGES];
  const cJSON *evaluate_sft, *evaluate_ppo; /* {metric: value} or NULL */
  const cJSON *reward;                      /* reward.json or NULL */
  const cJSON *seconds;                     /* {stage: seconds} or NULL */
  const cJSON *stopped;                     /* {gate, value, limit, reason} of results.json, or NULL */
} ReportRun;

typedef struct ReportData {
  const char *folder, *name;
  const cJSON *experiment, *results, *timing; /* the last two may be NULL */
  ReportRun *runs;                            /* arms in the experiment's order, then by seed */
  int run_count;
  const char **arms;
  int arm_count;
  Json *documents; /* owns the cJSON trees */
  int document_count, document_capacity;
} ReportData;

Status report_data_read(Arena *arena, const char *folder, ReportData *out) CHECKED;
void report_data_free(ReportData *data);

/* The column of that name, or NULL. */
const double *metric_column(const MetricTable *table, const char *name);
/* Lines of <stage folder>/<file>, parsed; lines that are no JSON object are left out. *out is an array that
 * lives as long as data. Empty when there is no such file. */
Status report_rows(Arena *arena, ReportData *data, const ReportRun *run, const char *stage, const char *file,
                   const cJSON **out) CHECKED;
/* A number at a key; NaN when there is none. */
double json_number(const cJSON *object, const char *key);

#endif
