#include "report.h"

#include <stdio.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

static const cJSON *member(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* What the run was made with: whatever of these experiment.json names. */
static void add_facts(Text *page, const ReportData *data) {
  static const char *const keys[] = {"version", "commit", "build", "device", "precision"};
  const cJSON *places[] = {member(data->experiment, "made_by"), data->experiment};
  text_print(page, "<ul class=\"facts\"><li>%d arm%s</li><li>%d run%s</li>", data->arm_count,
             data->arm_count == 1 ? "" : "s", data->run_count, data->run_count == 1 ? "" : "s");
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
      const cJSON *item = member(places[p], keys[k]);
      if (!cJSON_IsString(item) && !cJSON_IsNumber(item)) continue;
      text_print(page, "<li>%s ", keys[k]);
      if (cJSON_IsString(item))
        html_text(page, item->valuestring);
      else
        text_print(page, "%g", item->valuedouble);
      text_print(page, "</li>");
      break;
    }
  text_print(page, "</ul>\n");
}

static void add_json(Text *page, const cJSON *value) {
  char *text = cJSON_Print(value);
  if (!text) return;
  text_print(page, "<pre>");
  html_text(page, text);
  text_print(page, "</pre>");
  cJSON_free(text);
}

void report_experiment(Text *page, const ReportData *data) {
  text_print(
      page,
      "<h2>The experiment</h2><p class=\"soft\">Every default filled in; saved as a file it runs again.</p>"
      "<details><summary>experiment.json</summary>");
  add_json(page, data->experiment);
  text_print(page, "</details>");
  if (data->results) {
    text_print(page, "<details><summary>results.json</summary>");
    add_json(page, data->results);
    text_print(page, "</details>\n");
  }
}

enum { MAX_STAGES = 16 };

void report_time(Text *page, const ReportData *data) {
  const char *stages[MAX_STAGES];
  double seconds[MAX_STAGES];
  int runs[MAX_STAGES], count = 0;
  double longest = 0;
  for (int r = 0; r < data->run_count; r++) {
    const cJSON *item;
    cJSON_ArrayForEach(item, data->runs[r].seconds) {
      if (!cJSON_IsNumber(item)) continue;
      int at = 0;
      while (at < count && strcmp(stages[at], item->string) != 0) at++;
      if (at == MAX_STAGES) continue;
      if (at == count) {
        stages[count] = item->string;
        seconds[count] = 0;
        runs[count++] = 0;
      }
      seconds[at] += item->valuedouble;
      runs[at]++;
    }
  }
  for (int i = 0; i < count; i++) longest = seconds[i] / runs[i] > longest ? seconds[i] / runs[i] : longest;
  if (longest <= 0) return;
  text_print(
      page,
      "<h2>Time</h2><p class=\"soft\">Wall time of each stage, mean over %d run%s. Runs share the stages "
      "that do not differ between them.</p><div class=\"bars\">",
      data->run_count, data->run_count == 1 ? "" : "s");
  for (int i = 0; i < count; i++) {
    double mean = seconds[i] / runs[i];
    text_print(page, "<span>");
    html_text(page, stages[i]);
    text_print(page, "</span><span class=\"track\"><i class=\"fill\" style=\"--v:%.1f%%\"></i></span><span>",
               100 * mean / longest);
    html_seconds(page, mean);
    text_print(page, "</span>");
  }
  text_print(page, "</div>\n");
}

static Status add_sections(Text *page, ReportData *data) {
  text_print(page, "<p class=\"kicker\">PopALM experiment</p><h1>");
  html_text(page, data->name);
  text_print(page, "</h1>");
  add_facts(page, data);
  report_answer(page, data);
  report_cautions(page, data);
  report_results(page, data);
  TRY(report_replies(page, data));
  report_curves(page, data);
  report_reward_model(page, data);
  TRY(report_training_samples(page, data));
  report_time(page, data);
  report_experiment(page, data);
  return OK;
}

Status report_write(Arena *arena, const char *run_folder) {
  ReportData data;
  TRY(report_data_read(arena, run_folder, &data));
  Text body = {.arena = arena}, page = {.arena = arena};
  Status status = add_sections(&body, &data);
  if (status == OK) {
    html_page(&page, data.name, &body);
    status = file_write(path_join(arena, run_folder, "report.html"), page.data, page.length);
  }
  report_data_free(&data);
  return status;
}
