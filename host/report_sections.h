/* The report's sections, each of which adds itself to the page, or nothing when the run has no data for it.
 */
#ifndef POPALM_REPORT_SECTIONS_H
#define POPALM_REPORT_SECTIONS_H

#include "base/text.h"
#include "report_data.h"

/* A metric of the evaluation after PPO (arm -1: of the SFT model, over all runs) for each seed that has it.
 */
typedef struct ArmMetric {
  double *seeds; /* [count] */
  int count;
  double mean, deviation; /* NaN without seeds; deviation NaN with one */
} ArmMetric;

void report_answer(Text *page, const ReportData *data);
void report_results(Text *page, const ReportData *data);
void report_cautions(Text *page, const ReportData *data);
Status report_replies(Text *page, ReportData *data) CHECKED;
void report_curves(Text *page, const ReportData *data);
void report_reward_model(Text *page, const ReportData *data);
Status report_training_samples(Text *page, ReportData *data) CHECKED;
void report_time(Text *page, const ReportData *data);
void report_experiment(Text *page, const ReportData *data);

/* Parts of the results that compare the first `arms` arms. */
void report_intervals(Text *page, const ReportData *data, int arms);
void report_comparisons(Text *page, const ReportData *data, int arms);
/* The arm with the highest mean; -1: none has the metric. */
int report_best_arm(Arena *arena, const ReportData *data, const char *metric);

ArmMetric arm_metric(Arena *arena, const ReportData *data, int arm, const char *metric);
/* The metric that the experiment is about, as results name it: "reward". */
const char *primary_metric(const ReportData *data);
/* "ROUGE-L, best of 3" for rouge_l@3; unknown names as they are. */
void metric_label(Text *page, const char *metric);
void arm_key(Text *page, const ReportData *data, int arm); /* colour and name */

#endif
