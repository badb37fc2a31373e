#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t dtype_bytes(DType type) {
  static const size_t bytes[] = {[F32] = 4, [BF16] = 2, [I32] = 4, [U8] = 1};
  return bytes[type];
}

size_t weight_row_bytes(WeightType type, DType storage, int columns) {
  size_t count = (size_t)columns;
  if (type == WEIGHT_INT8) return (count + INT8_BLOCK - 1) / INT8_BLOCK * INT8_BLOCK_BYTES;
  return count * dtype_bytes(type == WEIGHT_BF16 ? BF16 : storage);
}

/* The devices, best first: "auto" takes the first row that has one. */
typedef struct Device {
  const char *name;
  Status (*open)(int index, Backend **out);
  int (*count)(void);
  const char *(*problem)(void); /* why the count is 0 */
} Device;

static int one(void) { return 1; }
static const char *none(void) { return ""; }

static const Device devices[] = {
#ifdef POPALM_CUDA
    {"cuda", cuda_backend_open, cuda_backend_devices, cuda_backend_problem},
#endif
    {"cpu", cpu_backend_open, one, none},
};

/* The row of the table that device names, and the number behind its colon. */
static Status find_device(const char *device, const Device **out, int *number) {
  const char *colon = strchr(device, ':');
  size_t length = colon ? (size_t)(colon - device) : strlen(device);
  char *end = NULL;
  long index = colon ? strtol(colon + 1, &end, 10) : 0;
  if (colon && (end == colon + 1 || *end || index < 0 || index > 1023))
    return fail(INVALID, "device \"%s\": the number is not one; write cuda:0", device);
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    bool chosen = strlen(devices[i].name) == length && memcmp(devices[i].name, device, length) == 0;
    if (!chosen && (strcmp(device, "auto") != 0 || devices[i].count() == 0)) continue;
    int count = devices[i].count();
    if (index >= count && count == 0)
      return fail(INVALID,
                  "device \"%s\": there is none that can be used; popalm devices says why, --device cpu "
                  "always works",
                  device);
    if (index >= count)
      return fail(INVALID, "device \"%s\": this machine has %d of them, numbered from 0; use another number",
                  device, count);
    *out = &devices[i];
    *number = (int)index;
    return OK;
  }
  return fail(INVALID, "device \"%s\" is not known to this build; use auto or cpu%s", device,
#ifdef POPALM_CUDA
              ", cuda or cuda:n"
#else
              " (for cuda, build where nvcc is installed)"
#endif
  );
}

Status backend_open(const char *device, Backend **out) {
  const Device *found;
  int number;
  TRY(find_device(device, &found, &number));
  return found->open(number, out);
}

Status backend_kind(const char *device, const char **out) {
  const Device *found;
  int number;
  TRY(find_device(device, &found, &number));
  *out = found->name;
  return OK;
}

/* What is known of a kind of device without one, and in builds that cannot use it. */
typedef struct Kind {
  const char *name;
  DType storage;
  size_t (*scratch)(const PassShape *);
  size_t (*fixed)(void);
} Kind;

static size_t nothing(void) { return 0; }

static const Kind kinds[] = {{"cpu", F32, cpu_scratch, nothing}, {"cuda", BF16, cuda_scratch, cuda_fixed}};

static const Kind *kind_named(const char *name) {
  const Kind *kind = kinds;
  while (strcmp(kind->name, name) != 0) kind++;
  return kind;
}

size_t backend_scratch(const char *kind, const PassShape *shape) { return kind_named(kind)->scratch(shape); }
DType backend_storage(const char *kind) { return kind_named(kind)->storage; }
size_t backend_fixed(const char *kind) { return kind_named(kind)->fixed(); }

int backend_devices(const char *kind, const char **why) {
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    if (strcmp(devices[i].name, kind) != 0) continue;
    *why = devices[i].problem();
    return devices[i].count();
  }
  *why = "not in this build; install nvcc, remove the build folder and start again";
  return 0;
}
