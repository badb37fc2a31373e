/* A fuzz target reads one input; tests/fuzz/drive.c feeds it the seeds and mutations of them, and libFuzzer does
 * where clang is (tests/fuzz/run.sh). A finding is a crash, a sanitizer's report, or a call that does not return. */
#ifndef POPALM_TESTS_FUZZ_H
#define POPALM_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The path of a file in memory that holds these bytes, for readers that map files; *fd is to be closed. */
const char *fuzz_file(Arena *arena, const uint8_t *data, size_t size, int *fd);

#endif
