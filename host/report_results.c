/* The table of results, the cautions and the reward model's accuracy. */
#include <math.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

enum { MAX_METRICS = 48, MAX_ARMS_SHOWN = 24, NAMED_RUNS = 3 };

static const cJSON *member(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
}

ArmMetric arm_metric(Arena *arena, const ReportData *data, int arm, const char *metric) {
  ArmMetric out = {.seeds = NEW(arena, double, data->run_count + 1), .mean = NAN, .deviation = NAN};
  double sum = 0, squares = 0;
  for (int r = 0; r < data->run_count; r++) {
    const ReportRun *run = &data->runs[r];
    if (arm >= 0 && run->arm_index != arm) continue;
    double value = json_number(arm < 0 ? run->evaluate_sft : run->evaluate_ppo, metric);
    if (isnan(value)) continue;
    out.seeds[out.count++] = value;
    sum += value;
  }
  if (out.count) out.mean = sum / out.count;
  for (int i = 0; i < out.count; i++) squares += (out.seeds[i] - out.mean) * (out.seeds[i] - out.mean);
  if (out.count > 1) out.deviation = sqrt(squares / (out.count - 1));
  if (out.deviation < 1e-12 * fabs(out.mean)) out.deviation = 0; /* rounding of equal values */
  return out;
}

const char *primary_metric(const ReportData *data) {
  const cJSON *metric = member(member(data->experiment, "ablate"), "metric");
  if (!cJSON_IsString(metric)) return "reward";
  const char *name = metric->valuestring;
  return strncmp(name, "evaluate.", 9) == 0 ? name + 9 : name;
}

void metric_label(Text *page, const char *metric) {
  static const struct {
    const char *name, *label;
  } rows[] = {{"reward", "Reward"},
              {"oracle_popularity", "True popularity"},
              {"win_rate", "Win rate over SFT"},
              {"rouge_1", "ROUGE-1"},
              {"rouge_2", "ROUGE-2"},
              {"rouge_l", "ROUGE-L"},
              {"bleu_4", "BLEU-4"},
              {"distinct_1", "Distinct-1"},
              {"distinct_2", "Distinct-2"},
              {"reply_length", "Reply length"},
              {"ended", "Replies that end"}};
  const char *at = strchr(metric, '@');
  size_t length = at ? (size_t)(at - metric) : strlen(metric);
  const char *label = NULL;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (strlen(rows[i].name) == length && memcmp(rows[i].name, metric, length) == 0) label = rows[i].label;
  if (!label) {
    html_text(page, metric);
    return;
  }
  text_print(page, "%s", label);
  if (at && strcmp(at, "@1") != 0) {
    text_print(page, ", best of ");
    html_text(page, at + 1);
  }
}

void arm_key(Text *page, const ReportData *data, int arm) {
  text_print(page, "<span class=\"name\"><i class=\"key c%d\"></i>", arm % HTML_COLORS);
  bool only = data->arm_count == 1 && strcmp(data->arms[arm], "main") == 0;
  html_text(page, only ? "PPO" : data->arms[arm]);
  text_print(page, "</span>");
}

/* Every metric that any evaluation has, in the order of its first appearance, the primary one first. */
static int list_metrics(const ReportData *data, const char *metrics[MAX_METRICS]) {
  int count = 0;
  metrics[count++] = primary_metric(data);
  for (int r = 0; r < data->run_count; r++)
    for (int which = 0; which < 2; which++) {
      const cJSON *item, *metric_values = which ? data->runs[r].evaluate_ppo : data->runs[r].evaluate_sft;
      cJSON_ArrayForEach(item, metric_values) {
        int at = 0;
        while (at < count && strcmp(metrics[at], item->string) != 0) at++;
        if (cJSON_IsNumber(item) && at == count && count < MAX_METRICS) metrics[count++] = item->string;
      }
    }
  return count;
}

static void add_cell(Text *page, const ArmMetric *value, bool best) {
  text_print(page, "<td%s>", best ? " class=\"best\"" : "");
  html_number(page, value->mean);
  if (!isnan(value->deviation)) {
    text_print(page, "<small>±%.*f</small>", value->deviation < 10 ? 3 : 1, value->deviation);
  }
  text_print(page, "</td>");
}

static void add_table(Text *page, const ReportData *data, int arms) {
  const char *metrics[MAX_METRICS];
  int count = list_metrics(data, metrics);
  text_print(page, "<div class=\"scroll\"><table><thead><tr><th>Metric</th><th>SFT</th>");
  for (int a = 0; a < arms; a++) {
    text_print(page, "<th>");
    arm_key(page, data, a);
    text_print(page, "</th>");
  }
  text_print(page, "</tr></thead><tbody>");
  for (int m = 0; m < count; m++) {
    text_print(page, "<tr%s><th>", m == 0 ? " class=\"primary\"" : "");
    metric_label(page, metrics[m]);
    text_print(page, "</th>");
    ArmMetric sft = arm_metric(page->arena, data, -1, metrics[m]);
    int best = report_best_arm(page->arena, data, metrics[m]);
    sft.deviation = NAN; /* over runs that share SFT models it would mislead */
    add_cell(page, &sft, false);
    for (int a = 0; a < arms; a++) {
      ArmMetric value = arm_metric(page->arena, data, a, metrics[m]);
      add_cell(page, &value, a == best && arms > 1 && strcmp(metrics[m], "reply_length") != 0);
    }
    text_print(page, "</tr>");
  }
  text_print(page, "</tbody></table></div>\n");
}

void report_results(Text *page, const ReportData *data) {
  if (report_best_arm(page->arena, data, primary_metric(data)) < 0) return;
  int arms = data->arm_count < MAX_ARMS_SHOWN ? data->arm_count : MAX_ARMS_SHOWN;
  text_print(page, "<h2>Results</h2>");
  if (arms > 1) {
    report_intervals(page, data, arms);
    if (cJSON_GetArraySize(member(data->results, "comparison")) > 0) report_comparisons(page, data, arms);
  }
  text_print(page,
             "<p class=\"soft\">On the evaluation split; mean over seeds, ± one standard deviation%s.</p>",
             arms > 1 ? ", the best arm in bold" : "");
  add_table(page, data, arms);
}

static double reward_accuracy(const ReportRun *run);
static double skipped_share(const ReportRun *run);

/* Signs of trouble in a run: a PPO metric's mean over the last tenth of the steps, or a value of its own. */
static const struct Caution {
  const char *column;
  double (*value)(const ReportRun *run);
  double least, most; /* outside of this the sentence is shown */
  const char *sentence;
} cautions[] = {
    {NULL, reward_accuracy, 0.55, INFINITY,
     "The reward model is hardly better than chance on held-out pairs; PPO follows noise"},
    {NULL, skipped_share, -INFINITY, 0.1,
     "The curriculum left too few samples for a minibatch in this share of the steps; lower the pace or take "
     "more samples"},
    {"kl", NULL, -0.1, INFINITY,
     "The KL is negative at the end: replies are not sampled from the policy that is trained, for example "
     "because of top-p"},
    {"kl", NULL, -INFINITY, 50,
     "The KL is large at the end: the policy is far from the SFT model, look for degenerate replies"},
    {"ended", NULL, 0.5, INFINITY, "Most replies reach the token limit; this share ends by itself"},
    {"entropy", NULL, 0.02, INFINITY, "The policy is almost deterministic at the end"},
    {"clip_fraction", NULL, -INFINITY, 0.5, "Most ratios are clipped: the steps are too large"},
};

static double last_tenth(const MetricTable *table, const char *name) {
  const double *column = metric_column(table, name);
  double sum = 0;
  int count = 0;
  for (int i = table->rows - 1 - table->rows / 10; column && i < table->rows; i++)
    if (i >= 0 && !isnan(column[i])) {
      sum += column[i];
      count++;
    }
  return count ? sum / count : NAN;
}

/* The value that a caution is about, for one run; NaN: it has none. */
static double reward_accuracy(const ReportRun *run) { return json_number(run->reward, "pair_accuracy"); }

static double skipped_share(const ReportRun *run) {
  const MetricTable *table = &run->metrics[REPORT_PPO];
  const double *skipped = metric_column(table, "skipped"); /* so far */
  return skipped && table->rows ? skipped[table->rows - 1] / table->rows : NAN;
}

static double caution_value(const struct Caution *caution, const ReportRun *run) {
  return caution->value ? caution->value(run) : last_tenth(&run->metrics[REPORT_PPO], caution->column);
}

/* Runs that a gate has stopped, those with the same reason together. */
static void add_stops(Text *list, const ReportData *data) {
  for (int r = 0; r < data->run_count; r++) {
    const cJSON *reason = member(data->runs[r].stopped, "reason");
    bool said = !cJSON_IsString(reason);
    for (int before = 0; before < r && !said; before++) {
      const cJSON *other = member(data->runs[before].stopped, "reason");
      said = cJSON_IsString(other) && strcmp(other->valuestring, reason->valuestring) == 0;
    }
    if (said) continue;
    text_print(list, "<li>Stopped by a gate: ");
    html_text(list, reason->valuestring);
    int count = 0;
    for (int same = r; same < data->run_count; same++) {
      const cJSON *other = member(data->runs[same].stopped, "reason");
      if (!cJSON_IsString(other) || strcmp(other->valuestring, reason->valuestring) != 0) continue;
      if (count++ >= NAMED_RUNS) continue;
      text_print(list, "%s", count > 1 ? ", " : ". It stopped ");
      html_text(list, data->runs[same].arm);
      text_print(list, " seed %lld", (long long)data->runs[same].seed);
    }
    if (count > NAMED_RUNS) text_print(list, " and %d more runs", count - NAMED_RUNS);
    text_print(list, ".</li>");
  }
}

void report_cautions(Text *page, const ReportData *data) {
  Text list = {.arena = page->arena};
  for (size_t c = 0; c < sizeof cautions / sizeof *cautions; c++) {
    int runs = 0;
    for (int r = 0; r < data->run_count; r++) {
      const ReportRun *run = &data->runs[r];
      double value = caution_value(&cautions[c], run);
      if (!(value < cautions[c].least || value > cautions[c].most)) continue;
      if (runs++ >= NAMED_RUNS) continue;
      text_print(&list, runs > 1 ? "; " : "<li>%s: ", cautions[c].sentence);
      html_text(&list, run->arm);
      text_print(&list, " seed %lld: ", (long long)run->seed);
      html_number(&list, value);
    }
    if (runs > NAMED_RUNS) text_print(&list, "; and %d more runs", runs - NAMED_RUNS);
    if (runs) text_print(&list, ".</li>");
  }
  add_stops(&list, data);
  if (list.length)
    text_print(page, "<div class=\"caution\"><b>To be looked at</b><ul>%s</ul></div>\n", list.data);
}

void report_reward_model(Text *page, const ReportData *data) {
  static const char *const ratios[] = {"<2", "2-10", "10-100", ">100"};
  double sum[4] = {0}, all = 0, all_count = 0;
  int count[4] = {0};
  for (int r = 0; r < data->run_count; r++) {
    const cJSON *by_ratio = member(data->runs[r].reward, "by_like_ratio");
    for (int i = 0; i < 4; i++) {
      double value = json_number(by_ratio, ratios[i]);
      if (isnan(value)) continue;
      sum[i] += value;
      count[i]++;
    }
    double accuracy = json_number(data->runs[r].reward, "pair_accuracy");
    if (isnan(accuracy)) continue;
    all += accuracy;
    all_count++;
  }
  if (all_count == 0) return;
  text_print(page,
             "<h2>Reward model</h2><p>On held-out pairs it ranks the reply with more likes first in "
             "<b>%.1f%%</b> of the "
             "pairs. By how many times more likes one of the two has:</p><div class=\"bars\">",
             100 * all / all_count);
  for (int i = 0; i < 4; i++) {
    if (!count[i]) continue;
    double share = 100 * sum[i] / count[i];
    text_print(page, "<span>");
    html_text(page, ratios[i]);
    text_print(page,
               "×</span><span class=\"track half\"><i class=\"fill\" "
               "style=\"--v:%.1f%%\"></i></span><span>%.1f%%</span>",
               share, share);
  }
  text_print(page, "</div><p class=\"soft\">Dashed: chance.</p>\n");
}
