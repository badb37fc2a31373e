/* popalm devices: what this build can run on, and with which libraries. */
#include <cblas.h>
#include <cjson/cJSON.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <xxhash.h>

#include "backend.h"
#include "base/comm.h"
#include "commands.h"
#include "options.h"

static const CommandLine line = {
    .usage = "popalm devices",
    .summary =
        "Lists the devices that a run can use (--device), their memory, the processor's instruction sets\n"
        "and the versions of the libraries."};

/* Those that change which code runs, here or in OpenBLAS; as the compiler names them. */
static void print_instruction_sets(void) {
#if defined(__x86_64__)
#define SET(name) \
  { name, __builtin_cpu_supports(name) }
  const struct {
    const char *name;
    int supported;
  } sets[] = {SET("sse4.2"),   SET("avx"),      SET("avx2"),       SET("fma"),       SET("avx512f"),
              SET("avx512bw"), SET("avx512vl"), SET("avx512vnni"), SET("avx512bf16")};
#undef SET
  printf("  instruction sets:");
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
    if (sets[i].supported) printf(" %s", sets[i].name);
  puts("");
#endif
}

/* A field of /proc/meminfo in bytes; 0 where there is none. */
static double memory_field(const char *name) {
  FILE *file = fopen("/proc/meminfo", "r");
  if (!file) return 0;
  char row[256];
  double kilobytes = 0;
  size_t length = strlen(name);
  while (fgets(row, sizeof row, file))
    if (strncmp(row, name, length) == 0 && row[length] == ':' &&
        sscanf(row + length + 1, "%lf", &kilobytes) == 1)
      break;
  fclose(file);
  return kilobytes * 1024;
}

static Status print_device(const char *name) {
  Backend *backend;
  TRY(backend_open(name, &backend));
  size_t used, total;
  backend->memory(backend, &used, &total);
  printf("%s: %s, %.1f GiB of memory, stores %s\n", backend->name, backend->device, (double)total / 0x1p30,
         backend->storage == BF16 ? "bf16" : "fp32");
  backend->close(backend);
  return OK;
}

static void print_libraries(void) {
  char pcre2[64] = "?";
  pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
  unsigned xxhash = XXH_versionNumber();
  puts("libraries");
  printf("  %s, kernels for %s\n", openblas_get_config(), openblas_get_corename());
  printf("  OpenMP %d, %d threads (OMP_NUM_THREADS)\n", _OPENMP, omp_get_max_threads());
  printf("  MPI: %s\n", comm_available() ? "runs on several ranks (mpirun)"
                                         : "not in this build; with libopenmpi-dev it runs on several ranks");
  printf("  cJSON %s\n", cJSON_Version());
  printf("  PCRE2 %s\n", pcre2);
  printf("  xxHash %u.%u.%u\n", xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
}

Status command_devices(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *why;
  int gpus = backend_devices("cuda", &why);
  for (int i = 0; i < gpus; i++) TRY(print_device(arena_print(arena, "cuda:%d", i)));
  if (gpus == 0) printf("cuda: none that can be used: %s\n", why);
  TRY(print_device("cpu"));
  double available = memory_field("MemAvailable");
  if (available > 0) printf("  available now: %.1f GiB\n", available / 0x1p30);
  print_instruction_sets();
  print_libraries();
  return OK;
}
