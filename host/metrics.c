#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/comm.h"
#include "base/text.h"
#include "tensorboard.h"

struct Metrics {
  const char *path; /* of metrics.jsonl */
  int fd;           /* -1 at all ranks but the first, which alone writes */
  int64_t step;
  Text row;
  EventFile events;
};

/* How many bytes of the file are whole rows up to resume_step. Rows start with {"step":n. */
static size_t kept_bytes(const FileMap *map, int64_t resume_step) {
  static const char lead[] = "{\"step\":";
  size_t at = 0;
  while (at < map->length) {
    const char *line = map->data + at, *end = memchr(line, '\n', map->length - at);
    if (!end || (size_t)(end - line) <= strlen(lead) || memcmp(line, lead, strlen(lead)) != 0) break;
    int64_t step = 0;
    for (const char *digit = line + strlen(lead); *digit >= '0' && *digit <= '9'; digit++)
      step = step * 10 + (*digit - '0');
    if (step > resume_step) break;
    at += (size_t)(end - line) + 1;
  }
  return at;
}

Status rows_cut(const char *path, int64_t resume_step) {
  size_t keep = 0;
  if (!file_exists(path)) return OK;
  if (resume_step > 0) {
    FileMap map;
    TRY(file_map(path, &map));
    keep = kept_bytes(&map, resume_step);
    file_unmap(&map);
  }
  if (truncate(path, (off_t)keep) == 0) return OK;
  return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", path, strerror(errno));
}

Status metrics_open(Arena *arena, const char *folder, int64_t resume_step, Metrics **out) {
  Metrics *metrics = NEW(arena, Metrics, 1);
  *out = metrics;
  *metrics = (Metrics){
      .path = path_join(arena, folder, "metrics.jsonl"), .fd = -1, .row = {.arena = arena}, .events.fd = -1};
  if (!comm_is_first()) return OK;
  TRY(rows_cut(metrics->path, resume_step));
  metrics->fd = open(metrics->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (metrics->fd < 0)
    return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", metrics->path,
                strerror(errno));
  return events_open(arena, path_join(arena, folder, "events.out.tfevents.0.popalm"), resume_step,
                     &metrics->events);
}

void metrics_begin(Metrics *metrics, int64_t step) {
  metrics->step = step;
  metrics->row.length = 0;
  text_print(&metrics->row, "{\"step\":%lld", (long long)step);
}

/* The shortest decimal that reads back as value: up to 15 digits are always exact, and %g drops zeros. */
static void print_number(Text *text, double value) {
  char digits[40];
  for (int precision = 15; precision <= 17; precision++) {
    snprintf(digits, sizeof digits, "%.*g", precision, value);
    if (strtod(digits, NULL) == value) break;
  }
  text_add(text, digits, strlen(digits));
}

void metrics_add(Metrics *metrics, const char *name, double value) {
  if (metrics->fd < 0) return;
  text_print(&metrics->row, ",\"%s\":", name);
  if (isfinite(value))
    print_number(&metrics->row, value);
  else
    text_print(&metrics->row, "null");
  events_add(&metrics->events, name, value);
}

void metrics_add_volatile(Metrics *metrics, const char *name, double value) {
  if (metrics->fd >= 0) events_add(&metrics->events, name, value);
}

static Status cannot_write(const Metrics *metrics) {
  return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", metrics->path,
              strerror(errno));
}

Status metrics_end(Metrics *metrics) {
  if (metrics->fd < 0) return OK;
  text_print(&metrics->row, "}\n");
  const char *at = metrics->row.data;
  size_t left = metrics->row.length;
  while (left > 0) {
    ssize_t written = write(metrics->fd, at, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return cannot_write(metrics);
    at += written;
    left -= (size_t)written;
  }
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return events_write(&metrics->events, metrics->step, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
}

Status metrics_sync(Metrics *metrics) {
  if (metrics->fd < 0) return OK;
  if (fsync(metrics->fd) != 0) return cannot_write(metrics);
  return events_sync(&metrics->events);
}

Status metrics_close(Metrics *metrics) {
  if (metrics->fd < 0) return OK;
  Status status = metrics_sync(metrics);
  close(metrics->fd);
  metrics->fd = -1;
  events_close(&metrics->events);
  return status;
}
