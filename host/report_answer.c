/* The question and its answer, and the comparison of arms that it rests on. */
#include <math.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

static const double SIGNIFICANT = 0.05;

static const cJSON *member(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
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

int report_best_arm(Arena *arena, const ReportData *data, const char *metric) {
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

/* The arm that this one is compared with: what its comparison says, else the experiment's baseline; itself:
 * none. */
static int base_of(const ReportData *data, int arm) {
  const cJSON *entry = comparison_of(data, data->arms[arm]), *name = member(entry, "baseline");
  for (int a = 0; cJSON_IsString(name) && a < data->arm_count; a++)
    if (strcmp(data->arms[a], name->valuestring) == 0) return a;
  return entry && !member(entry, "difference") ? arm : baseline_arm(data);
}

/* The highest of the other arms; -1: there is none. */
static int second_arm(Arena *arena, const ReportData *data, const char *metric, int best) {
  int second = -1;
  double highest = -INFINITY;
  for (int a = 0; a < data->arm_count; a++) {
    double mean = arm_metric(arena, data, a, metric).mean;
    if (a == best || !(mean > highest)) continue;
    highest = mean;
    second = a;
  }
  return second;
}

static void answer_of_arms(Text *page, const ReportData *data, const char *metric, int best) {
  int other = base_of(data, best);
  bool is_base = other == best; /* then the next of the others is what it is compared with */
  if (is_base) other = second_arm(page->arena, data, metric, best);
  ArmMetric value = arm_metric(page->arena, data, best, metric);
  text_print(page, "<p><b>");
  arm_key(page, data, best);
  text_print(page, "</b> has the highest mean: <b>");
  html_number(page, value.mean);
  text_print(page, "</b>");
  add_interval(page, comparison_of(data, data->arms[best]), "ci95");
  if (is_base) text_print(page, " – no arm beats the baseline");
  double against = other < 0 ? NAN : arm_metric(page->arena, data, other, metric).mean;
  if (isnan(against)) {
    text_print(page, "; no other arm has results yet.</p>");
    return;
  }
  text_print(page, is_base ? "; the next, " : ", against ");
  arm_key(page, data, other);
  text_print(page, is_base ? ", has <b>" : " (the baseline) with <b>");
  html_number(page, against);
  text_print(page, "</b>: ");
  add_change(page, against, value.mean);
  text_print(page, ".");
  add_significance(page, comparison_of(data, data->arms[is_base ? other : best]), value.count);
  text_print(page, "</p>");
}

typedef enum Verdict { HIGHER, LOWER, NOT_SHOWN, VERDICTS } Verdict;

/* What the corrected test says of an arm; VERDICTS: it was not tested. */
static Verdict verdict_of(const ReportData *data, int arm) {
  const cJSON *entry = comparison_of(data, data->arms[arm]);
  double p = json_number(entry, "p_holm"), difference = json_number(entry, "difference");
  if (isnan(p) || isnan(difference)) return VERDICTS;
  return p >= SIGNIFICANT ? NOT_SHOWN : difference > 0 ? HIGHER : LOWER;
}

/* All arms by their verdict, and what too few seeds cannot tell. */
static void add_verdicts(Text *page, const ReportData *data) {
  static const char *const titles[VERDICTS] = {
      "Significantly higher than the baseline: ", "Significantly lower: ", "No difference shown: "};
  const cJSON *warning = member(data->results, "warning");
  text_print(page, "<p class=\"verdicts\">");
  for (Verdict verdict = 0; verdict < VERDICTS; verdict++) {
    int count = 0;
    for (int a = 0; a < data->arm_count; a++) {
      if (verdict_of(data, a) != verdict) continue;
      text_print(page, "%s", count++ ? ", " : titles[verdict]);
      arm_key(page, data, a);
    }
    if (count) text_print(page, ". ");
  }
  text_print(page, "</p>");
  if (!cJSON_IsString(warning)) return;
  text_print(page, "<p class=\"warning\">");
  html_text(page, warning->valuestring);
  text_print(page, ".</p>");
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
  int best = report_best_arm(page->arena, data, metric);
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
  if (best >= 0 && data->arm_count > 2) add_verdicts(page, data);
  if (best >= 0) {
    add_against_sft(page, data, metric, best);
    if (strcmp(metric, "oracle_popularity") != 0) add_against_sft(page, data, "oracle_popularity", best);
    if (data->arm_count == 1 && strcmp(metric, "rouge_l@1") != 0)
      add_against_sft(page, data, "rouge_l@1", best);
  }
  text_print(page, "</section>\n");
}

void report_intervals(Text *page, const ReportData *data, int arms) {
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

static void add_comparison(Text *page, const ReportData *data, int arm) {
  static const char *const verdicts[] = {"<b class=\"good\">higher</b>", "<b class=\"bad\">lower</b>",
                                         "not shown", "–"};
  const cJSON *entry = comparison_of(data, data->arms[arm]);
  int base = base_of(data, arm);
  text_print(page, "<tr><th>");
  arm_key(page, data, arm);
  text_print(page, "</th><td>%s</td><td>", base == arm ? "a baseline" : verdicts[verdict_of(data, arm)]);
  html_number(page, arm_metric(page->arena, data, arm, primary_metric(data)).mean);
  add_interval(page, entry, "ci95");
  text_print(page, "</td>");
  if (base == arm) {
    text_print(page, "<td colspan=\"5\"></td></tr>");
    return;
  }
  text_print(page, "<td>");
  html_number(page, json_number(entry, "difference"));
  add_interval(page, entry, "difference_ci95");
  if (base != baseline_arm(data)) {
    text_print(page, "<br><small>to ");
    html_text(page, data->arms[base]);
    text_print(page, "</small>");
  }
  text_print(page, "</td><td>");
  html_number(page, json_number(entry, "effect_size"));
  text_print(page, "</td><td>%.0f of %.0f</td>", fmax(0, json_number(entry, "wins")),
             fmax(0, json_number(entry, "pairs")));
  static const char *const tests[][2] = {{"p_value", "p_holm"}, {"p_bootstrap", "p_bootstrap_holm"}};
  for (int t = 0; t < 2; t++) {
    text_print(page, "<td>");
    html_number(page, json_number(entry, tests[t][1]));
    text_print(page, " <small>");
    html_number(page, json_number(entry, tests[t][0]));
    text_print(page, "</small></td>");
  }
  text_print(page, "</tr>");
}

void report_comparisons(Text *page, const ReportData *data, int arms) {
  text_print(page,
             "<div class=\"scroll\"><table><thead><tr><th>Arm</th><th>Verdict</th><th>Mean [95%%]</th>"
             "<th>Difference [95%%]</th><th>Effect</th><th>Higher in</th><th>p</th><th>p, bootstrap</th>"
             "</tr></thead><tbody>");
  for (int a = 0; a < arms; a++) add_comparison(page, data, a);
  text_print(
      page,
      "</tbody></table></div><p class=\"soft\">Paired by seed. Intervals: Student’s t. Effect: mean over "
      "standard deviation of the differences (Hedges). p: after Holm’s correction for the number of arms, "
      "small: before it; of the test that flips signs, which decides, and of a paired bootstrap, which is "
      "too optimistic with few seeds.</p>\n");
}
