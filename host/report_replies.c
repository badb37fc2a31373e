/* Replies to the same posts side by side, and samples of the training with what the curriculum did to them.
 */
#include <math.h>
#include <string.h>

#include "report_html.h"
#include "report_sections.h"

enum { SHOWN = 3, FOLDED = 21, REPLIES = 2, GOLDEN = 2, COLUMNS = 25, SAMPLES = 8 };

static const cJSON *member(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* A text that is either the item itself or its member "text". */
static const char *text_of(const cJSON *item) {
  const cJSON *text = cJSON_IsObject(item) ? member(item, "text") : item;
  return cJSON_IsString(text) ? text->valuestring : "";
}

static void add_chip(Text *page, const char *name, double value) {
  if (isnan(value)) return;
  text_print(page, "<span class=\"chip\">%s ", name);
  html_number(page, value);
  text_print(page, "</span>");
}

/* Replies to one post from one model; arm -1: SFT, -2: golden. */
static void add_column(Text *page, const ReportData *data, int arm, const cJSON *replies, int most) {
  text_print(page, "<div><h4>");
  if (arm >= 0)
    arm_key(page, data, arm);
  else
    text_print(page, arm == -1 ? "SFT" : "Golden");
  text_print(page, "</h4><ol>");
  int count = 0;
  const cJSON *reply;
  cJSON_ArrayForEach(reply, replies) {
    if (count++ == most) break;
    text_print(page, arm >= 0 ? "<li class=\"c%d\">" : "<li>", arm % HTML_COLORS);
    html_text(page, text_of(reply));
    text_print(page, "<br>");
    add_chip(page, "reward", json_number(reply, "reward"));
    add_chip(page, "popularity", json_number(reply, "oracle_popularity"));
    text_print(page, "</li>");
  }
  text_print(page, "</ol></div>");
}

/* The row about the same post; files of one split have the same order, so it is usually at the same place. */
static const cJSON *row_of(const cJSON *rows, int at, const char *post) {
  const cJSON *row = cJSON_GetArrayItem(rows, at);
  if (row && strcmp(text_of(member(row, "post")), post) == 0) return row;
  cJSON_ArrayForEach(row, rows) if (strcmp(text_of(member(row, "post")), post) == 0) return row;
  return NULL;
}

typedef struct ReplyColumn {
  int arm; /* -1: SFT */
  const cJSON *rows;
} ReplyColumn;

static void add_post(Text *page, const ReportData *data, const ReplyColumn *columns, int count, int at) {
  const cJSON *row = cJSON_GetArrayItem(columns[0].rows, at);
  const char *post = text_of(member(row, "post"));
  text_print(page, "<article class=\"post\"><p>");
  html_text(page, post);
  text_print(page, "</p><div class=\"replies\">");
  if (cJSON_GetArraySize(member(row, "golden"))) add_column(page, data, -2, member(row, "golden"), GOLDEN);
  for (int c = 0; c < count; c++) {
    const cJSON *own = row_of(columns[c].rows, at, post);
    if (own) add_column(page, data, columns[c].arm, member(own, "replies"), REPLIES);
  }
  text_print(page, "</div></article>\n");
}

Status report_replies(Text *page, ReportData *data) {
  ReplyColumn columns[COLUMNS];
  int count = 0, last_arm = -1;
  for (int r = 0; r < data->run_count && count < COLUMNS; r++) {
    const ReportRun *run = &data->runs[r];
    const cJSON *rows;
    if (r == 0) {
      TRY(report_rows(page->arena, data, run, "evaluate-sft", "replies.jsonl", &rows));
      if (cJSON_GetArraySize(rows)) columns[count++] = (ReplyColumn){-1, rows};
    }
    if (run->arm_index == last_arm || count == COLUMNS) continue;
    TRY(report_rows(page->arena, data, run, "evaluate-ppo", "replies.jsonl", &rows));
    last_arm = run->arm_index;
    if (cJSON_GetArraySize(rows)) columns[count++] = (ReplyColumn){run->arm_index, rows};
  }
  if (count == 0) return OK;
  int posts = cJSON_GetArraySize(columns[0].rows);
  int chosen = posts < SHOWN + FOLDED ? posts : SHOWN + FOLDED;
  text_print(page,
             "<h2>Replies</h2><p class=\"soft\">To posts of the evaluation split, spread evenly over it; "
             "from the first seed "
             "of each arm. Nothing is picked by hand.</p>");
  for (int i = 0; i < chosen; i++) {
    if (i == SHOWN) text_print(page, "<details><summary>%d more posts</summary>", chosen - SHOWN);
    int turn = i < SHOWN ? i * FOLDED / SHOWN + i : 0; /* spread the shown ones over the chosen ones */
    if (i >= SHOWN) {
      int per = FOLDED / SHOWN + 1, k = i - SHOWN;
      turn = k / (per - 1) * per + k % (per - 1) + 1;
    }
    if (chosen < SHOWN + FOLDED) turn = i;
    add_post(page, data, columns, count, (int)((int64_t)turn * posts / chosen));
  }
  if (chosen > SHOWN) text_print(page, "</details>\n");
  return OK;
}

static void add_sample(Text *page, const cJSON *row) {
  const char *fate = text_of(member(row, "fate"));
  text_print(page, "<tr><th>%.0f</th><td class=\"text\">", json_number(row, "step"));
  html_text(page, text_of(member(row, "post")));
  text_print(page, "</td><td class=\"text\">");
  html_text(page, text_of(member(row, "reply")));
  text_print(page, "</td><td>");
  html_number(page, json_number(row, "reward"));
  text_print(page, "</td><td>");
  html_number(page, json_number(row, "prob"));
  text_print(page, "</td><td%s>", strcmp(fate, "kept") == 0 ? " class=\"good\"" : "");
  html_text(page, fate);
  text_print(page, "</td></tr>");
}

Status report_training_samples(Text *page, ReportData *data) {
  bool begun = false;
  int last_arm = -1;
  for (int r = 0; r < data->run_count; r++) {
    const ReportRun *run = &data->runs[r];
    if (run->arm_index == last_arm) continue;
    last_arm = run->arm_index;
    const cJSON *rows;
    TRY(report_rows(page->arena, data, run, "ppo", "samples.jsonl", &rows));
    int count = cJSON_GetArraySize(rows);
    if (count == 0) continue;
    if (!begun)
      text_print(page,
                 "<h2>Samples of the training</h2><p class=\"soft\">Spread evenly over the steps, and what "
                 "the curriculum did "
                 "with them; first seed of each arm.</p>");
    begun = true;
    text_print(page, "<details%s><summary>", data->arm_count == 1 ? " open" : "");
    arm_key(page, data, run->arm_index);
    text_print(page,
               "</summary><div class=\"scroll\"><table><thead><tr><th>Step</th><th "
               "class=\"text\">Post</th><th class=\"text\">Reply</th>"
               "<th>Reward</th><th>Probability</th><th>Curriculum</th></tr></thead><tbody>");
    int shown = count < SAMPLES ? count : SAMPLES;
    for (int i = 0; i < shown; i++)
      add_sample(page,
                 cJSON_GetArrayItem(rows, shown > 1 ? (int)((int64_t)i * (count - 1) / (shown - 1)) : 0));
    text_print(page, "</tbody></table></div></details>\n");
  }
  return OK;
}
