/* Feeds a fuzz target: drive SECONDS SEED FILE... gives it each file, then mutations of them until the time is up.
 * The same seed gives the same inputs. An input is kept in the environment's FUZZ_INPUT file while it runs, so
 * that one that crashes can be looked at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "base/text.h"
#include "fuzz.h"

enum { MOST_BYTES = 1 << 17 };

typedef struct Random {
  RandomKey key;
  uint32_t at;
} Random;

static size_t below(Random *random, size_t n) {
  return n ? random_below(random->key, random->at++, 0, (uint32_t)n) : 0;
}

/* One change: a byte, a bit, an interesting number of 1 to 8 bytes, a piece taken out, doubled or moved here from
 * another place, the end cut off. */
static void mutate(Random *random, uint8_t *bytes, size_t *size) {
  static const uint64_t numbers[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                     INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX, UINT64_MAX / 4 + 1};
  if (*size == 0) bytes[(*size)++] = (uint8_t)below(random, 256);
  size_t near = below(random, 2) ? 4096 : *size; /* headers are where it matters */
  size_t at = below(random, near < *size ? near : *size), left = *size - at;
  size_t piece = 1 + below(random, left < 64 ? left : 64), other = below(random, *size - piece + 1);
  uint64_t number = numbers[below(random, sizeof numbers / sizeof *numbers)] + below(random, 3) - 1;
  switch (below(random, 8)) {
    case 0:
      bytes[at] = (uint8_t)below(random, 256);
      return;
    case 1:
      bytes[at] ^= (uint8_t)(1u << below(random, 8));
      return;
    case 2:
    case 3:
      for (size_t i = 0, n = (size_t)1 << below(random, 4); i < n && at + i < *size; i++)
        bytes[at + i] = (uint8_t)(number >> (8 * i));
      return;
    case 4:
      memmove(bytes + at, bytes + at + piece, left - piece);
      *size -= piece;
      return;
    case 5:
      if (*size + piece > MOST_BYTES) return;
      memmove(bytes + at + piece, bytes + at, left);
      *size += piece;
      return;
    case 6:
      memmove(bytes + at, bytes + other, piece);
      return;
    default:
      *size = below(random, 16) ? *size : at;
      return;
  }
}

static void run(const char *keep, const uint8_t *bytes, size_t size) {
  FILE *file = keep ? fopen(keep, "wb") : NULL;
  if (file) {
    fwrite(bytes, 1, size, file);
    fclose(file);
  }
  uint8_t *exact = malloc(size ? size : 1); /* so that the sanitizer sees a read past the end */
  if (!exact) abort();
  memcpy(exact, bytes, size);
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
}

static size_t load(const char *path, uint8_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(2);
  }
  size_t size = fread(bytes, 1, MOST_BYTES, file);
  fclose(file);
  return size;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s SECONDS SEED FILE...\n", argv[0]);
    return 2;
  }
  static uint8_t bytes[MOST_BYTES + 64];
  const char *keep = getenv("FUZZ_INPUT");
  double end = seconds_now() + atof(argv[1]);
  Random random = {{strtoull(argv[2], NULL, 10), RANDOM_TEST, 0}, 0};
  long inputs = 0;
  for (int i = 3; i < argc; i++, inputs++) run(keep, bytes, load(argv[i], bytes));
  for (; seconds_now() < end; inputs++) {
    random.key.step++;
    random.at = 0;
    size_t size = load(argv[3 + below(&random, (size_t)(argc - 3))], bytes);
    for (size_t changes = 1 + below(&random, 6); changes > 0; changes--) mutate(&random, bytes, &size);
    run(keep, bytes, size);
  }
  printf("%ld inputs without a finding\n", inputs);
  return 0;
}
