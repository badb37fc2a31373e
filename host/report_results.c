/* The answer, the table of results, the cautions and the reward model's accuracy. */
#include <math.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

static const double SIGNIFICANT = 0.05;
enum { MAX_METRICS = 48, MAX_ARMS_SHOWN = 12 };

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
  text_print(page, "<span class=\"name\"><i class=\"key c%d\"></i>", arm % 8);
  bool only = data->arm_count == 1 && strcmp(data->arms[arm], "main") == 0;
  html_text(page, only ? "PPO" : data->arms[arm]);
  text_print(page, "</span>");
}

/* The comparison of an arm on the primary metric, or NULL. */
static const cJSON *comparison_of(const ReportData *data, const char *arm) {
  const cJSON *entry;
  cJSON_ArrayForEach(entry, member(data->results, "comparison")) {
    const cJSON *name = member(entry, "arm"), *metric = member(entry, "metric");
    if (!cJSON_IsString(name) || strcmp(name->valuestring, arm) != 0) continue;
    if (!cJSON_IsString(metric)) return entry;
    const char *plain = metric->valuestring;
    if (strncmp(plain, "evaluate.", 9) == 0) plain += 9;
    if (strcmp(plain, primary_metric(data)) == 0) return entry;
  }
  return NULL;
}

static int baseline_arm(const ReportData *data) {
  const cJSON *baseline = member(member(data->experiment, "ablate"), "baseline");
  for (int a = 0; cJSON_IsString(baseline) && a < data->arm_count; a++)
    if (strcmp(data->arms[a], baseline->valuestring) == 0) return a;
  return 0;
}

static int best_arm(Arena *arena, const ReportData *data, const char *metric) {
  int best = -1;
  double highest = -INFINITY;
  for (int a = 0; a < data->arm_count; a++) {
    double mean = arm_metric(arena, data, a, metric).mean;
    if (mean > highest) {
      highest = mean;
      best = a;
    }
  }
  return best;
}

static void add_change(Text *page, double from, double to) {
  text_print(page, "<b class=\"%s\">%s", to > from ? "good" : to < from ? "bad" : "", to >= from ? "+" : "−");
  html_number(page, fabs(to - from));
  text_print(page, "</b>");
}

/* "p = 0.012 (Holm), paired over 5 seeds", and what it means. */
static void add_significance(Text *page, const cJSON *comparison, int seeds) {
  double holm = json_number(comparison, "p_holm"),
         p = isnan(holm) ? json_number(comparison, "p_value") : holm;
  if (isnan(p)) {
    text_print(page, " %s, so nothing is said about significance.",
               seeds < 2 ? "There is one seed an arm" : "There is no paired test yet");
    return;
  }
  text_print(page, " The difference is <b class=\"%s\">%s</b> (", p < SIGNIFICANT ? "good" : "bad",
             p < SIGNIFICANT ? "significant" : "not significant");
  text_print(page, p < 0.001 ? "p &lt; 0.001" : "p = %.3f", p);
  text_print(page, "%s, paired over %d seeds).", isnan(holm) ? "" : " after Holm's correction", seeds);
}

static void add_interval(Text *page, const cJSON *comparison, const char *key) {
  const cJSON *interval = member(comparison, key);
  const cJSON *low = cJSON_GetArrayItem(interval, 0), *high = cJSON_GetArrayItem(interval, 1);
  if (!cJSON_IsNumber(low) || !cJSON_IsNumber(high)) return;
  text_print(page, " <small>[");
  html_number(page, low->valuedouble);
  text_print(page, ", ");
  html_number(page, high->valuedouble);
  text_print(page, "]</small>");
}

static void answer_of_arms(Text *page, const ReportData *data, const char *metric, int best) {
  int baseline = baseline_arm(data), other = baseline;
  ArmMetric value = arm_metric(page->arena, data, best, metric);
  text_print(page, "<p><b>");
  arm_key(page, data, best);
  text_print(page, "</b> has the highest mean: <b>");
  html_number(page, value.mean);
  text_print(page, "</b>");
  add_interval(page, comparison_of(data, data->arms[best]), "ci95");
  if (best == baseline) { /* then the nearest of the others is what it is compared with */
    double nearest = -INFINITY;
    for (int a = 0; a < data->arm_count; a++) {
      double mean = arm_metric(page->arena, data, a, metric).mean;
      if (a != best && mean > nearest) {
        nearest = mean;
        other = a;
      }
    }
    text_print(page, " – no arm beats the baseline");
  }
  ArmMetric against = arm_metric(page->arena, data, other, metric);
  if (other == best || isnan(against.mean)) {
    text_print(page, "; no other arm has results yet.</p>");
    return;
  }
  text_print(page, best == baseline ? "; the next, " : ", against ");
  arm_key(page, data, other);
  text_print(page, best == baseline ? ", has <b>" : " (the baseline) with <b>");
  html_number(page, against.mean);
  text_print(page, "</b>: ");
  add_change(page, against.mean, value.mean);
  text_print(page, ".");
  add_significance(page, comparison_of(data, data->arms[best == baseline ? other : best]), value.count);
  text_print(page, "</p>");
}

static void add_against_sft(Text *page, const ReportData *data, const char *metric, int arm) {
  ArmMetric sft = arm_metric(page->arena, data, -1, metric), ppo = arm_metric(page->arena, data, arm, metric);
  if (isnan(sft.mean) || isnan(ppo.mean)) return;
  text_print(page, "<p>");
  metric_label(page, metric);
  text_print(page, ": SFT <b>");
  html_number(page, sft.mean);
  text_print(page, "</b> → ");
  arm_key(page, data, arm);
  text_print(page, " <b>");
  html_number(page, ppo.mean);
  text_print(page, "</b> (");
  add_change(page, sft.mean, ppo.mean);
  text_print(page, ")</p>");
}

void report_answer(Text *page, const ReportData *data) {
  const char *metric = primary_metric(data);
  int best = best_arm(page->arena, data, metric);
  text_print(
      page, "<section class=\"answer\"><h2>%s ",
      data->arm_count > 1 ? "Which arm gives the highest" : "What does reinforcement learning change in the");
  text_print(page, "“");
  metric_label(page, metric);
  text_print(page, "” of the replies%s?</h2>", data->arm_count > 1 ? "" : " over supervised training");
  if (best < 0)
    text_print(page, "<p>There is no answer yet: no run has finished its evaluation.</p>");
  else if (data->arm_count > 1)
    answer_of_arms(page, data, metric, best);
  if (best >= 0) {
    add_against_sft(page, data, metric, best);
    if (strcmp(metric, "oracle_popularity") != 0) add_against_sft(page, data, "oracle_popularity", best);
    if (data->arm_count == 1 && strcmp(metric, "rouge_l@1") != 0)
      add_against_sft(page, data, "rouge_l@1", best);
  }
  text_print(page, "</section>\n");
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
    int best = best_arm(page->arena, data, metrics[m]);
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

static void add_intervals(Text *page, const ReportData *data, int arms) {
  Interval *rows = NEW(page->arena, Interval, arms);
  const char *metric = primary_metric(data);
  for (int a = 0; a < arms; a++) {
    const cJSON *interval = member(comparison_of(data, data->arms[a]), "ci95");
    const cJSON *low = cJSON_GetArrayItem(interval, 0), *high = cJSON_GetArrayItem(interval, 1);
    ArmMetric value = arm_metric(page->arena, data, a, metric);
    rows[a] = (Interval){.name = data->arms[a],
                         .color = a,
                         .mean = value.mean,
                         .low = cJSON_IsNumber(low) ? low->valuedouble : NAN,
                         .high = cJSON_IsNumber(high) ? high->valuedouble : NAN,
                         .seeds = value.seeds,
                         .seed_count = value.count};
  }
  text_print(page, "<h3>");
  metric_label(page, metric);
  text_print(page,
             "</h3><p class=\"soft\">Disc: mean. Bar: 95%% interval of the mean. Rings: single seeds.</p>");
  html_interval_chart(page, rows, arms);
}

static void add_comparisons(Text *page, const ReportData *data, int arms) {
  text_print(page,
             "<div class=\"scroll\"><table><thead><tr><th>Arm</th><th>Mean [95%% interval]</th>"
             "<th>Against baseline</th><th>p</th><th>p (Holm)</th></tr></thead><tbody>");
  for (int a = 0; a < arms; a++) {
    const cJSON *entry = comparison_of(data, data->arms[a]);
    text_print(page, "<tr><th>");
    arm_key(page, data, a);
    text_print(page, "</th><td>");
    html_number(page, arm_metric(page->arena, data, a, primary_metric(data)).mean);
    add_interval(page, entry, "ci95");
    text_print(page, "</td><td>");
    html_number(page, json_number(entry, "difference"));
    add_interval(page, entry, "difference_ci95");
    text_print(page, "</td><td>");
    html_number(page, json_number(entry, "p_value"));
    text_print(page, "</td><td>");
    html_number(page, json_number(entry, "p_holm"));
    text_print(page, "</td></tr>");
  }
  text_print(page, "</tbody></table></div>\n");
}

void report_results(Text *page, const ReportData *data) {
  if (best_arm(page->arena, data, primary_metric(data)) < 0) return;
  int arms = data->arm_count < MAX_ARMS_SHOWN ? data->arm_count : MAX_ARMS_SHOWN;
  text_print(page, "<h2>Results</h2>");
  if (arms > 1) {
    add_intervals(page, data, arms);
    if (cJSON_GetArraySize(member(data->results, "comparison")) > 0) add_comparisons(page, data, arms);
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

void report_cautions(Text *page, const ReportData *data) {
  Text list = {.arena = page->arena};
  for (size_t c = 0; c < sizeof cautions / sizeof *cautions; c++) {
    int runs = 0;
    for (int r = 0; r < data->run_count; r++) {
      const ReportRun *run = &data->runs[r];
      double value = caution_value(&cautions[c], run);
      if (!(value < cautions[c].least || value > cautions[c].most)) continue;
      text_print(&list, runs++ ? "; " : "<li>%s: ", cautions[c].sentence);
      html_text(&list, run->arm);
      text_print(&list, " seed %lld: ", (long long)run->seed);
      html_number(&list, value);
    }
    if (runs) text_print(&list, ".</li>");
  }
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
