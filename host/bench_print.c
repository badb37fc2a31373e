/* What `popalm bench` prints and writes. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "bench.h"
#include "version.h"

void bench_print_head(const Backend *backend, const BenchCeilings *ceilings, unsigned sets) {
  printf("%s: %s, stores %s\n", backend->name, backend->device, backend->storage == BF16 ? "bf16" : "fp32");
  printf("copy %.1f GB/s (read + write), matrix product %.2f TFLOP/s\n", ceilings->copy / 1e9,
         ceilings->matrix / 1e12);
  for (int i = 0; i < bench_set_count; i++) {
    const BenchSet *set = &bench_sets[i];
    if (!(sets & set->bit)) continue;
    printf("%s: %s\n", set->name, set->help);
    if (strcmp(backend->name, "cpu") == 0 && *set->cpu_scale) printf("    here %s\n", set->cpu_scale);
  }
  printf("\n%-20s %-5s %-16s %-32s %11s %6s %10s %7s  %s\n", "kernel", "set", "shape", "size", "time", "+-",
         "rate", "limit", "baselines");
  fflush(stdout);
}

static void print_time(double seconds) {
  if (seconds < 1e-3)
    printf(" %8.2f us", seconds * 1e6);
  else
    printf(" %8.2f ms", seconds * 1e3);
}

void bench_print_row(const BenchResult *r, const BenchCeilings *ceilings) {
  printf("%-20s %-5s %-16s %-32s", r->kernel->name, bench_set(r->shape->set)->name, r->shape->name, r->size);
  if (*r->skipped) {
    printf(" not measured: %s\n", r->skipped);
    return;
  }
  bool matrix;
  double limit = bench_limit(r, ceilings, &matrix),
         rate = (matrix ? r->operations : r->bytes) / r->time.median;
  print_time(r->time.median);
  printf(" %5.1f%%", 50 * (r->time.high - r->time.low) / r->time.median);
  printf(" %5.*f %s",
         rate < 99.95e9   ? 1
         : rate < 999.5e9 ? 0
                          : 2,
         rate < 999.5e9 ? rate / 1e9 : rate / 1e12,
         rate < 999.5e9 ? (matrix ? "GF/s" : "GB/s") : (matrix ? "TF/s" : "TB/s"));
  printf(" %6.1f%%", 100 * limit / r->time.median);
  for (int i = 0; i < r->baselines; i++) {
    const BenchBaseline *baseline = &r->baseline[i];
    if (baseline->failed)
      printf("  failed %s", baseline->name);
    else
      printf("  x%.2f %s", baseline->time.median / r->time.median, baseline->name);
  }
  puts("");
}

/* ---- JSON ---- */

static void add_time(cJSON *object, const BenchTime *time) {
  cJSON_AddNumberToObject(object, "median_s", time->median);
  cJSON_AddNumberToObject(object, "quartile_low_s", time->low);
  cJSON_AddNumberToObject(object, "quartile_high_s", time->high);
  cJSON_AddNumberToObject(object, "samples", time->samples);
  cJSON_AddNumberToObject(object, "calls_per_sample", time->calls);
}

static void add_baselines(cJSON *row, const BenchResult *r) {
  cJSON *list = cJSON_AddArrayToObject(row, "baselines");
  for (int i = 0; i < r->baselines; i++) {
    cJSON *one = cJSON_CreateObject();
    cJSON_AddItemToArray(list, one);
    cJSON_AddStringToObject(one, "name", r->baseline[i].name);
    cJSON_AddBoolToObject(one, "failed", r->baseline[i].failed);
    if (r->baseline[i].failed) continue;
    add_time(one, &r->baseline[i].time);
    cJSON_AddBoolToObject(one, "recorded", r->baseline[i].recorded);
    cJSON_AddNumberToObject(one, "ratio", r->baseline[i].time.median / r->time.median);
  }
}

static cJSON *row_of(const BenchResult *r, const BenchCeilings *ceilings) {
  cJSON *row = cJSON_CreateObject();
  cJSON_AddStringToObject(row, "kernel", r->kernel->name);
  cJSON_AddStringToObject(row, "set", bench_set(r->shape->set)->name);
  cJSON_AddStringToObject(row, "shape", r->shape->name);
  cJSON_AddStringToObject(row, "size", r->size);
  if (*r->skipped) {
    cJSON_AddStringToObject(row, "skipped", r->skipped);
    return row;
  }
  bool matrix;
  double limit = bench_limit(r, ceilings, &matrix);
  cJSON_AddNumberToObject(row, "bytes", r->bytes);
  cJSON_AddNumberToObject(row, "operations", r->operations);
  add_time(row, &r->time);
  cJSON_AddNumberToObject(row, "copies", r->copies);
  cJSON_AddNumberToObject(row, "working_bytes", r->working_bytes);
  cJSON_AddBoolToObject(row, "recorded", r->recorded);
  cJSON_AddStringToObject(row, "bound", matrix ? "operations" : "bytes");
  cJSON_AddNumberToObject(row, "per_second", (matrix ? r->operations : r->bytes) / r->time.median);
  cJSON_AddNumberToObject(row, "limit_s", limit);
  cJSON_AddNumberToObject(row, "percent", 100 * limit / r->time.median);
  add_baselines(row, r);
  return row;
}

static void add_scales(cJSON *root, const Backend *backend) {
  cJSON *scales = cJSON_AddObjectToObject(root, "cpu_scale");
  for (int i = 0; i < bench_set_count && strcmp(backend->name, "cpu") == 0; i++)
    cJSON_AddStringToObject(scales, bench_sets[i].name, bench_sets[i].cpu_scale);
}

Status bench_write_json(const char *path, const Backend *backend, const BenchCeilings *ceilings,
                        const BenchResult *results, int count) {
  char date[32];
  time_t now = time(NULL);
  struct tm utc;
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "date", date);
  cJSON_AddStringToObject(root, "version", popalm_version);
  cJSON_AddStringToObject(root, "commit", popalm_commit);
  cJSON_AddStringToObject(root, "build", popalm_build);
  cJSON_AddStringToObject(root, "backend", backend->name);
  cJSON_AddStringToObject(root, "device", backend->device);
  cJSON_AddStringToObject(root, "storage", backend->storage == BF16 ? "bf16" : "fp32");
  cJSON *limits = cJSON_AddObjectToObject(root, "ceilings");
  cJSON_AddNumberToObject(limits, "copy_bytes_per_second", ceilings->copy);
  cJSON_AddNumberToObject(limits, "matrix_operations_per_second", ceilings->matrix);
  cJSON_AddNumberToObject(limits, "cache_bytes", ceilings->cache_bytes);
  add_scales(root, backend);
  cJSON *rows = cJSON_AddArrayToObject(root, "rows");
  for (int i = 0; i < count; i++) cJSON_AddItemToArray(rows, row_of(&results[i], ceilings));
  Status status = json_write(path, root);
  cJSON_Delete(root);
  return status;
}
