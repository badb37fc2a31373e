/* Runs a fuzz target on each file of a folder and on mutations of it that are the same every time, without a
 * fuzzer: replay FOLDER [ROUNDS]. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A few bytes changed, or the end cut off. The copy has no byte too many, so that reading past it is seen. */
static void run_mutation(const FileMap *seed, uint32_t file, uint32_t round) {
  RandomKey key = {file + 1, RANDOM_TEST, round};
  size_t size = round % 4 == 3 ? random_below(key, 9, 0, (uint32_t)seed->length) : seed->length;
  uint8_t *data = malloc(size + 1);
  memcpy(data, seed->data, size);
  for (uint32_t i = 0; size && i <= round % 3; i++) {
    Random4 r = philox(key, i, 0);
    data[r.v[0] % size] = (uint8_t)(r.v[1] % 3 ? (uint32_t) "\"{}[],:0-9 \\\xc4\xff"[r.v[2] % 15] : r.v[2]);
  }
  LLVMFuzzerTestOneInput(data, size);
  free(data);
}

static int by_name(const struct dirent **a, const struct dirent **b) {
  return strcmp((*a)->d_name, (*b)->d_name);
}

int main(int count, char **argument) {
  if (count < 2) return 2;
  Arena arena = {0};
  struct dirent **entry;
  int entries = scandir(argument[1], &entry, NULL, by_name), ran = 0;
  uint32_t rounds = count > 2 ? (uint32_t)atoi(argument[2]) : 0;
  for (int i = 0; i < entries; i++) {
    FileMap seed;
    bool hidden = entry[i]->d_name[0] == '.';
    if (!hidden && file_map(path_join(&arena, argument[1], entry[i]->d_name), &seed) == OK) {
      LLVMFuzzerTestOneInput((const uint8_t *)seed.data, seed.length);
      for (uint32_t round = 0; round < rounds; round++) run_mutation(&seed, (uint32_t)i, round);
      file_unmap(&seed);
      ran++;
    }
    free(entry[i]);
  }
  if (entries >= 0) free(entry);
  arena_free(&arena);
  printf("%d seeds\n", ran);
  return ran == 0;
}
