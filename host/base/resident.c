#include "base/resident.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* A line "VmHWM:  1234 kB" of /proc/self/status; 0 without. */
static size_t status_field(const char *name) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  size_t kib = 0, length = strlen(name);
  while (file && kib == 0 && fgets(line, sizeof line, file))
    if (strncmp(line, name, length) == 0) sscanf(line + length, "%zu", &kib);
  if (file) fclose(file);
  return kib * 1024;
}

size_t resident_bytes(void) { return status_field("VmRSS:"); }

size_t resident_peak(void) {
  size_t peak = status_field("VmHWM:");
  struct rusage usage;
  if (peak == 0 && getrusage(RUSAGE_SELF, &usage) == 0) peak = (size_t)usage.ru_maxrss * 1024;
  return peak;
}

void resident_reset(void) {
  malloc_trim(0);
  FILE *file = fopen("/proc/self/clear_refs", "w");
  if (!file) return;
  fputs("5", file);
  fclose(file);
}
