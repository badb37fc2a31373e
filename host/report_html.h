/* Pieces of the report's page: escaped text, numbers, charts as inline SVG, and the page around them. */
#ifndef POPALM_REPORT_HTML_H
#define POPALM_REPORT_HTML_H

#include <stdbool.h>

#include "base/text.h"

/* Escaped for element content and quoted attributes; invalid UTF-8 and control characters become U+FFFD. */
void html_text(Text *page, const char *text);
/* Three or four significant places; an en dash for NaN. */
void html_number(Text *page, double value);
/* 12.3 s, 4:05 min, 1:02:03 h */
void html_seconds(Text *page, double seconds);

enum { HTML_COLORS = 12 }; /* classes c0 to c11 of the style sheet; the thirteenth arm has the first one's */

/* A line of a chart: means over seeds, with the range over them. */
typedef struct Curve {
  const char *name;
  int color; /* an arm's index, for the palette */
  bool dashed;
  bool shared; /* stands for several arms: not hidden with one of them */
  int count;
  double *x, *mean, *low, *high; /* [count] */
} Curve;

typedef struct LineChart {
  const char *title, *help; /* help: one sentence below the title */
  const char *x_label;
  const Curve *curves;
  int count;
  bool points; /* mark the points: for curves that are no function of x */
} LineChart;
void html_line_chart(Text *page, const LineChart *chart);

/* Means with their intervals, one row an arm, and a dot a seed. */
typedef struct Interval {
  const char *name;
  int color;
  double mean, low, high; /* low and high NaN: no interval */
  const double *seeds;
  int seed_count;
} Interval;
void html_interval_chart(Text *page, const Interval *rows, int count);

/* The whole page: the template with style, script and body in their places. */
void html_page(Text *out, const char *title, const Text *body);

#endif
