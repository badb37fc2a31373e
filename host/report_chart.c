/* Charts as inline SVG: sharp at every size and on paper, readable without script, coloured by the style
 * sheet. */
#include <math.h>
#include <string.h>

#include "report_html.h"

enum { WIDTH = 360, HEIGHT = 208, LEFT = 54, RIGHT = 10, TOP = 8, BOTTOM = 24, TICKS = 4 };

/* What varies by less of its size is drawn as constant: ticks that tell it apart would not fit. */
static const double FLAT = 1e-3;

/* Values from low to high drawn from pixel `from` to pixel `to`; ticks every `step`. */
typedef struct Axis {
  double low, high, step, from, to;
} Axis;

static double place(const Axis *axis, double value) {
  return axis->from + (axis->to - axis->from) * (value - axis->low) / (axis->high - axis->low);
}

/* The step 1, 2 or 5 times a power of ten that gives about TICKS ticks; the range grows to whole steps. */
static Axis nice_axis(double low, double high, double from, double to, bool grow) {
  if (!(low <= high)) low = 0, high = 1;
  if (high - low < FLAT * fmax(1e-300, fmax(fabs(low), fabs(high)))) {
    low -= fabs(low) * 0.1;
    high += high == 0 ? 1 : fabs(high) * 0.1;
  }
  double rough = (high - low) / TICKS, power = pow(10, floor(log10(rough))), part = rough / power;
  double step = power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
  if (grow) {
    low = floor(low / step + 1e-9) * step;
    high = ceil(high / step - 1e-9) * step;
  }
  return (Axis){low, high, step, from, to};
}

static void print_tick(Text *page, double value, const Axis *axis) {
  static const struct {
    double size;
    const char *suffix;
  } rows[] = {{1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  double step = axis->step, largest = fmax(fabs(axis->low), fabs(axis->high));
  if (fabs(value) < step * 1e-6) value = 0;
  if (step < 1e-3 && largest < 1e-3 && value != 0) { /* 2.5e-4 */
    int power = (int)floor(log10(fabs(value)) + 1e-9);
    text_print(page, "%.3ge%d", value / pow(10, power), power);
    return;
  }
  for (int i = 0; i < 3; i++)
    if (step >= rows[i].size / 10 && fabs(value) >= rows[i].size) {
      text_print(page, "%g%s", value / rows[i].size, rows[i].suffix);
      return;
    }
  text_print(page, "%.*f", step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9), value);
}

static void draw_axes(Text *page, const Axis *x, const Axis *y, const char *x_label) {
  for (double v = ceil(y->low / y->step - 1e-9) * y->step; v <= y->high + y->step * 1e-6; v += y->step) {
    double at = place(y, v);
    text_print(page, "<path class=\"%s\" d=\"M%d %.1fH%d\"/><text class=\"y\" x=\"%d\" y=\"%.1f\">",
               fabs(v) < y->step * 1e-6 ? "zero" : "grid", LEFT, at, WIDTH - RIGHT, LEFT - 6, at + 3.5);
    print_tick(page, v, y);
    text_print(page, "</text>");
  }
  for (double v = ceil(x->low / x->step - 1e-9) * x->step; v <= x->high + x->step * 1e-6; v += x->step) {
    double at = place(x, v);
    if (at > WIDTH - RIGHT - 40 && x_label[0]) continue; /* the axis's name stands there */
    text_print(page, "<text class=\"x\" x=\"%.1f\" y=\"%d\">", at, HEIGHT - 8);
    print_tick(page, v, x);
    text_print(page, "</text>");
  }
  text_print(page, "<text class=\"name\" x=\"%d\" y=\"%d\">", WIDTH - RIGHT, HEIGHT - 8);
  html_text(page, x_label);
  text_print(page, "</text>");
}

static bool has_band(const Curve *curve) {
  for (int i = 0; i < curve->count; i++)
    if (curve->low[i] < curve->high[i]) return true;
  return false;
}

static void draw_curve(Text *page, const Curve *curve, const Axis *x, const Axis *y, bool points) {
  int color = curve->color % HTML_COLORS;
  text_print(page, "<g class=\"series c%d\" data-arm=\"%d\" data-name=\"", color,
             curve->shared ? -1 : curve->color);
  html_text(page, curve->name);
  text_print(page, "\">");
  if (!points && has_band(curve)) {
    text_print(page, "<path class=\"band\" d=\"");
    for (int i = 0; i < curve->count; i++)
      text_print(page, "%c%.1f %.1f", i ? 'L' : 'M', place(x, curve->x[i]), place(y, curve->high[i]));
    for (int i = curve->count - 1; i >= 0; i--)
      text_print(page, "L%.1f %.1f", place(x, curve->x[i]), place(y, curve->low[i]));
    text_print(page, "Z\"/>");
  }
  text_print(page, "<polyline class=\"line%s\" points=\"", curve->dashed ? " dashed" : "");
  for (int i = 0; i < curve->count; i++)
    text_print(page, "%s%.1f,%.2f", i ? " " : "", place(x, curve->x[i]), place(y, curve->mean[i]));
  text_print(page, "\"/>");
  for (int i = 0; i < curve->count; i++) {
    bool last = i == curve->count - 1;
    if (!(points || curve->count == 1)) break;
    text_print(page, "<circle class=\"dot%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>", last ? " last" : "",
               place(x, curve->x[i]), place(y, curve->mean[i]), last ? "4" : "1.6");
  }
  text_print(page, "</g>");
}

void html_line_chart(Text *page, const LineChart *chart) {
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (int c = 0; c < chart->count; c++)
    for (int i = 0; i < chart->curves[c].count; i++) {
      const Curve *curve = &chart->curves[c];
      x_low = fmin(x_low, curve->x[i]);
      x_high = fmax(x_high, curve->x[i]);
      y_low = fmin(y_low, chart->points ? curve->mean[i] : curve->low[i]);
      y_high = fmax(y_high, chart->points ? curve->mean[i] : curve->high[i]);
    }
  Axis x = nice_axis(x_low, x_high, LEFT + 2, WIDTH - RIGHT - 2, false);
  Axis y = nice_axis(y_low, y_high, HEIGHT - BOTTOM, TOP, true);
  text_print(page, "<figure class=\"chart\"><figcaption><b>");
  html_text(page, chart->title);
  text_print(page, "</b><span>");
  html_text(page, chart->help);
  text_print(page, "</span></figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH,
             HEIGHT);
  html_text(page, chart->title);
  text_print(page, "\" data-x=\"%.10g %.10g %g %g\" data-y=\"%.10g %.10g %g %g\"%s>", x.low, x.high, x.from,
             x.to, y.low, y.high, y.from, y.to, chart->points ? "" : " data-hover=\"\"");
  draw_axes(page, &x, &y, chart->x_label);
  for (int c = 0; c < chart->count; c++) draw_curve(page, &chart->curves[c], &x, &y, chart->points);
  text_print(page, "</svg></figure>\n");
}

/* At most so many characters; the whole name appears under the pointer. */
static void add_shortened(Text *page, const char *name, int most) {
  size_t length = strlen(name), at = 0;
  if ((int)utf8_length(name, length) <= most) {
    html_text(page, name);
    return;
  }
  for (int i = 0; i < most - 1; i++) utf8_next(name, length, &at);
  html_text(page, arena_strndup(page->arena, name, at));
  text_print(page, "…<title>");
  html_text(page, name);
  text_print(page, "</title>");
}

void html_interval_chart(Text *page, const Interval *rows, int count) {
  enum { ROW = 32, TALL_ROW = 42, NAME = 96, SHORT = 12, LONG = 52, WIDE = 440, MARGIN = 14 };
  bool above = false; /* names that do not fit beside the bars stand above them */
  for (int r = 0; r < count; r++) above = above || utf8_length(rows[r].name, strlen(rows[r].name)) > SHORT;
  int row = above ? TALL_ROW : ROW;
  double low = INFINITY, high = -INFINITY;
  for (int r = 0; r < count; r++) {
    low = fmin(low, fmin(rows[r].mean, rows[r].low)); /* fmin and fmax leave NaN out */
    high = fmax(high, fmax(rows[r].mean, rows[r].high));
    for (int s = 0; s < rows[r].seed_count; s++) {
      low = fmin(low, rows[r].seeds[s]);
      high = fmax(high, rows[r].seeds[s]);
    }
  }
  Axis x = nice_axis(low, high, above ? MARGIN : NAME + 8, WIDE - MARGIN, true);
  int height = count * row + 26;
  text_print(
      page, "<svg class=\"intervals\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Means and intervals\">",
      WIDE, height);
  for (double v = x.low; v <= x.high + x.step * 1e-6; v += x.step) {
    text_print(page, "<path class=\"%s\" d=\"M%.1f 4V%d\"/><text class=\"x\" x=\"%.1f\" y=\"%d\">",
               fabs(v) < x.step * 1e-6 ? "zero" : "grid", place(&x, v), count * row + 4, place(&x, v),
               height - 6);
    print_tick(page, v, &x);
    text_print(page, "</text>");
  }
  for (int r = 0; r < count; r++) {
    double y = above ? row * (r + 1.0) - 6 : row * (r + 0.5) + 4;
    text_print(page, "<g class=\"c%d\"><text class=\"arm%s\" x=\"%d\" y=\"%.1f\">",
               rows[r].color % HTML_COLORS, above ? " above" : "", above ? MARGIN : NAME,
               above ? y - 12 : y + 4);
    add_shortened(page, rows[r].name, LONG);
    text_print(page, "</text>");
    if (isfinite(rows[r].low) && isfinite(rows[r].high))
      text_print(page, "<path class=\"interval\" d=\"M%.1f %.1fH%.1f\"/>", place(&x, rows[r].low), y,
                 place(&x, rows[r].high));
    for (int s = 0; s < rows[r].seed_count; s++)
      if (isfinite(rows[r].seeds[s]))
        text_print(page, "<circle class=\"seed\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>",
                   place(&x, rows[r].seeds[s]), y);
    if (isfinite(rows[r].mean))
      text_print(page, "<circle class=\"mean\" cx=\"%.1f\" cy=\"%.1f\" r=\"5.5\"/>", place(&x, rows[r].mean),
                 y);
    text_print(page, "</g>");
  }
  text_print(page, "</svg>\n");
}
