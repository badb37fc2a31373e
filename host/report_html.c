#include "report_html.h"

#include <math.h>
#include <string.h>

/* The files under host/report/ are part of the program. */
#define EMBED(name, file)                                                              \
  __asm__(".pushsection .rodata\n" #name ":\n.incbin \"" POPALM_REPORT_FOLDER "/" file \
          "\"\n.byte 0\n"                                                              \
          ".popsection\n");                                                            \
  extern const char name[]
EMBED(report_page_html, "page.html");
EMBED(report_css, "report.css");
EMBED(report_js, "report.js");

void html_text(Text *page, const char *text) {
  static const struct {
    char character;
    const char *entity;
  } rows[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
  size_t length = strlen(text);
  for (size_t at = 0; at < length;) {
    size_t from = at;
    uint32_t code = utf8_next(text, length, &at);
    const char *entity = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
      if (code == (uint32_t)rows[i].character) entity = rows[i].entity;
    bool control = (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7F && code < 0xA0);
    if (code == 0xFFFD || control) entity = "\xEF\xBF\xBD";
    if (entity)
      text_add(page, entity, strlen(entity));
    else
      text_add(page, text + from, at - from);
  }
}

void html_number(Text *page, double value) {
  double size = fabs(value);
  if (!isfinite(value))
    text_print(page, "–");
  else if (size >= 1e6 || (size > 0 && size < 5e-4))
    text_print(page, "%.2e", value);
  else
    text_print(page, "%.*f", size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3, value);
}

void html_seconds(Text *page, double seconds) {
  long whole = lround(seconds);
  if (!isfinite(seconds))
    text_print(page, "–");
  else if (seconds < 60)
    text_print(page, "%.1f s", seconds);
  else if (whole < 3600)
    text_print(page, "%ld:%02ld min", whole / 60, whole % 60);
  else
    text_print(page, "%ld:%02ld:%02ld h", whole / 3600, whole / 60 % 60, whole % 60);
}

static void put(Text *out, const char *text, size_t length) { text_add(out, text, length); }

void html_page(Text *out, const char *title, const Text *body) {
  Text name = {.arena = out->arena};
  html_text(&name, title);
  const struct {
    const char *mark, *text;
  } rows[] = {{"{{title}}", name.data ? name.data : ""},
              {"{{style}}", report_css},
              {"{{body}}", body->data ? body->data : ""},
              {"{{script}}", report_js}};
  const char *at = report_page_html;
  for (const char *mark; (mark = strstr(at, "{{"));) {
    put(out, at, (size_t)(mark - at));
    at = mark + 2;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      size_t length = strlen(rows[i].mark);
      if (strncmp(mark, rows[i].mark, length) != 0) continue;
      put(out, rows[i].text, strlen(rows[i].text));
      at = mark + length;
    }
  }
  put(out, at, strlen(at));
}
