/* Curves over the steps: one line an arm, the mean over its seeds, and the range over them as a band. */
#include <math.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

enum { BINS = 80, POINT_BINS = 20 };

typedef struct ChartRow {
  const char *column, *title, *help;
  const char *held_out; /* a column drawn dashed in the same chart, or NULL */
  bool folded;          /* shown when asked for */
} ChartRow;

static const ChartRow sft_rows[] = {
    {"loss", "Loss", "a token of the reply; dashed: held out", "dev_loss", false},
    {"perplexity", "Perplexity", "of the replies; dashed: held out", "dev_perplexity", false},
    {"lr", "Learning rate", "", NULL, true},
    {"grad_norm", "Gradient norm", "before clipping", NULL, true},
};
static const ChartRow reward_rows[] = {
    {"loss", "Loss", "of the pairs", NULL, false},
    {"accuracy", "Accuracy", "pairs of the batch ranked as their likes", NULL, false},
    {"lr", "Learning rate", "", NULL, true},
    {"grad_norm", "Gradient norm", "before clipping", NULL, true},
};
static const ChartRow ppo_rows[] = {
    {"reward", "Reward", "of all samples, the ROUGE term included", NULL, false},
    {"reward_model", "Reward model", "its part of the reward; golden replies have mean 0", NULL, false},
    {"enhancement", "ROUGE term", "its part of the reward", NULL, false},
    {"kl", "KL to the SFT model", "of a reply", NULL, false},
    {"kl_coef", "KL coefficient", "β, adapted to the target", NULL, true},
    {"entropy", "Entropy", "of the policy, a token", NULL, false},
    {"kept_rank", "Kept by rank", "share of the samples", NULL, false},
    {"kept_pace", "Kept by pace", "share of the samples", NULL, false},
    {"lambda", "Pace λ", "what R · prob has to reach; of a quantile pace the share that is kept", NULL,
     false},
    {"reply_length", "Reply length", "tokens", NULL, false},
    {"ended", "Replies that end", "share of the samples", NULL, false},
    {"policy_loss", "Policy loss", "", NULL, true},
    {"value_loss", "Value loss", "", NULL, true},
    {"clip_fraction", "Clip fraction", "share of the tokens", NULL, false},
    {"explained_variance", "Explained variance", "of the returns, by the critic", NULL, true},
    {"advantage_std", "Spread of advantages", "before whitening", NULL, true},
    {"skipped", "Skipped steps", "so far; too few samples were left", NULL, true},
};

static const struct StageRow {
  ReportStageId stage;
  const char *title;
  const ChartRow *rows;
  int count;
} stage_rows[] = {
    {REPORT_PPO, "Reinforcement learning", ppo_rows, sizeof ppo_rows / sizeof *ppo_rows},
    {REPORT_REWARD, "Reward model training", reward_rows, sizeof reward_rows / sizeof *reward_rows},
    {REPORT_SFT, "Supervised training", sft_rows, sizeof sft_rows / sizeof *sft_rows},
};

/* Step range of a stage over the runs of an arm, or of all arms (-1). */
static bool step_range(const ReportData *data, ReportStageId stage, int arm, double *low, double *high) {
  *low = INFINITY;
  *high = -INFINITY;
  for (int r = 0; r < data->run_count; r++) {
    const MetricTable *table = &data->runs[r].metrics[stage];
    if (arm >= 0 && data->runs[r].arm_index != arm) continue;
    for (int i = 0; i < table->rows; i++) {
      *low = fmin(*low, table->steps[i]);
      *high = fmax(*high, table->steps[i]);
    }
  }
  return *low <= *high;
}

/* The means of a run's column over bins of steps; NaN where there are none. */
static void bin_means(const MetricTable *table, const double *values, double low, double width, int bins,
                      double *mean, double *x) {
  int counts[BINS] = {0};
  for (int b = 0; b < bins; b++) mean[b] = x[b] = 0;
  for (int i = 0; i < table->rows; i++) {
    if (!isfinite(values[i])) continue;
    int b = (int)((table->steps[i] - low) / width);
    if (b < 0 || b >= bins) continue;
    mean[b] += values[i];
    x[b] += table->steps[i];
    counts[b]++;
  }
  for (int b = 0; b < bins; b++) {
    mean[b] = counts[b] ? mean[b] / counts[b] : NAN;
    x[b] = counts[b] ? x[b] / counts[b] : NAN;
  }
}

/* The curve of an arm's column, runs of one stage folder counted once. */
static Curve arm_curve(Arena *arena, const ReportData *data, ReportStageId stage, int arm, const char *column,
                       int most_bins) {
  Curve curve = {.name = data->arms[arm], .color = arm};
  double low, high, mean[BINS], x[BINS];
  if (!step_range(data, stage, arm, &low, &high)) return curve;
  int bins = high - low + 1 < most_bins ? (int)(high - low + 1) : most_bins;
  double width = (high - low + 1) / bins;
  double **out[] = {&curve.x, &curve.mean, &curve.low, &curve.high};
  for (int i = 0; i < 4; i++) *out[i] = NEW(arena, double, bins);
  int *runs = NEW(arena, int, bins);
  for (int r = 0; r < data->run_count; r++) {
    const ReportRun *run = &data->runs[r];
    const double *values = metric_column(&run->metrics[stage], column);
    if (run->arm_index != arm || !values) continue;
    bin_means(&run->metrics[stage], values, low, width, bins, mean, x);
    for (int b = 0; b < bins; b++) {
      if (isnan(mean[b])) continue;
      curve.low[b] = runs[b] ? fmin(curve.low[b], mean[b]) : mean[b];
      curve.high[b] = runs[b] ? fmax(curve.high[b], mean[b]) : mean[b];
      curve.mean[b] += mean[b];
      curve.x[b] += x[b];
      runs[b]++;
    }
  }
  for (int b = 0; b < bins; b++) {
    if (!runs[b]) continue;
    int at = curve.count++;
    curve.x[at] = curve.x[b] / runs[b];
    curve.mean[at] = curve.mean[b] / runs[b];
    curve.low[at] = curve.low[b];
    curve.high[at] = curve.high[b];
  }
  return curve;
}

/* Where the arm's first run keeps the stage; NULL: nowhere. */
static const char *stage_of_arm(const ReportData *data, ReportStageId stage, int arm) {
  for (int r = 0; r < data->run_count; r++)
    if (data->runs[r].arm_index == arm) return data->runs[r].stage_path[stage];
  return NULL;
}

/* Whether one of the arms from first to last uses the very same stage folder as arm. */
static bool shared_with(const ReportData *data, ReportStageId stage, int arm, int first, int last) {
  const char *own = stage_of_arm(data, stage, arm);
  for (int a = first; own && a <= last; a++) {
    const char *other = stage_of_arm(data, stage, a);
    if (other && strcmp(own, other) == 0) return true;
  }
  return false;
}

static void add_chart(Text *page, const ReportData *data, ReportStageId stage, const ChartRow *row) {
  Curve *curves = NEW(page->arena, Curve, 2 * data->arm_count + 1);
  int count = 0;
  for (int a = 0; a < data->arm_count; a++) {
    if (shared_with(data, stage, a, 0, a - 1)) continue; /* drawn already */
    bool shared = shared_with(data, stage, a, a + 1, data->arm_count - 1);
    const char *name = shared ? "shared" : data->arms[a];
    Curve curve = arm_curve(page->arena, data, stage, a, row->column, BINS);
    curve.name = name;
    curve.shared = shared;
    if (curve.count) curves[count++] = curve;
    if (!row->held_out) continue;
    curve = arm_curve(page->arena, data, stage, a, row->held_out, BINS);
    curve.dashed = true;
    curve.shared = shared;
    curve.name = arena_print(page->arena, "%s, held out", name);
    if (curve.count) curves[count++] = curve;
  }
  if (count)
    html_line_chart(
        page,
        &(LineChart){
            .title = row->title, .help = row->help, .x_label = "step", .curves = curves, .count = count});
}

/* Reward bought with how much KL: the frontier that arms are judged by. */
static void add_reward_against_kl(Text *page, const ReportData *data) {
  Curve *curves = NEW(page->arena, Curve, data->arm_count + 1);
  int count = 0;
  for (int a = 0; a < data->arm_count; a++) {
    Curve kl = arm_curve(page->arena, data, REPORT_PPO, a, "kl", POINT_BINS);
    Curve reward = arm_curve(page->arena, data, REPORT_PPO, a, "reward_model", POINT_BINS);
    if (reward.count == 0) reward = arm_curve(page->arena, data, REPORT_PPO, a, "reward", POINT_BINS);
    if (kl.count == 0 || kl.count != reward.count) continue;
    reward.x = kl.mean;
    curves[count++] = reward;
  }
  if (count)
    html_line_chart(page, &(LineChart){.title = "Reward against KL",
                                       .help = "higher at the same KL is better; large dot: the end",
                                       .x_label = "KL",
                                       .curves = curves,
                                       .count = count,
                                       .points = true});
}

/* Columns that the tables do not know get a chart of their own. */
static void add_other_charts(Text *page, const ReportData *data, const struct StageRow *stage) {
  const MetricTable *table = NULL;
  for (int r = 0; r < data->run_count && !table; r++)
    if (data->runs[r].metrics[stage->stage].rows) table = &data->runs[r].metrics[stage->stage];
  for (int c = 0; table && c < table->columns; c++) {
    bool known = false;
    for (int i = 0; i < stage->count; i++) {
      const ChartRow *row = &stage->rows[i];
      known = known || strcmp(row->column, table->names[c]) == 0 ||
              (row->held_out && strcmp(row->held_out, table->names[c]) == 0);
    }
    if (!known)
      add_chart(page, data, stage->stage, &(ChartRow){table->names[c], table->names[c], "", NULL, true});
  }
}

/* A stage's charts: the telling ones, then the others behind a click. */
static void add_stage(Text *page, const ReportData *data, const struct StageRow *stage) {
  text_print(page, "<h3>%s</h3><div class=\"charts\">", stage->title);
  if (stage->stage == REPORT_PPO) add_reward_against_kl(page, data);
  for (int i = 0; i < stage->count; i++)
    if (!stage->rows[i].folded) add_chart(page, data, stage->stage, &stage->rows[i]);
  text_print(page, "</div>");
  Text more = {.arena = page->arena};
  for (int i = 0; i < stage->count; i++)
    if (stage->rows[i].folded) add_chart(&more, data, stage->stage, &stage->rows[i]);
  add_other_charts(&more, data, stage);
  if (more.length)
    text_print(
        page,
        "<details class=\"more\"><summary>More curves</summary><div class=\"charts\">%s</div></details>\n",
        more.data);
}

void report_curves(Text *page, const ReportData *data) {
  double low, high;
  bool any = false;
  for (int s = 0; s < REPORT_STAGES; s++) any = any || step_range(data, (ReportStageId)s, -1, &low, &high);
  if (!any) return;
  text_print(
      page,
      "<section><h2>Curves</h2><p class=\"soft\">Lines: means over the seeds of an arm, and over a few steps "
      "where there are many. Bands: from the lowest to the highest seed. A stage that arms share is drawn "
      "once.</p>");
  if (data->arm_count > 1) {
    text_print(page, "<div class=\"legend\">");
    for (int a = 0; a < data->arm_count; a++) {
      text_print(page, "<span class=\"arm\" data-arm=\"%d\">", a);
      arm_key(page, data, a);
      text_print(page, "</span>");
    }
    text_print(page, "</div>");
  }
  for (size_t s = 0; s < sizeof stage_rows / sizeof *stage_rows; s++)
    if (step_range(data, stage_rows[s].stage, -1, &low, &high)) add_stage(page, data, &stage_rows[s]);
  text_print(page, "</section>\n");
}
