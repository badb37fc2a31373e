/* Any bytes as a safetensors file: what is accepted must be readable to its last byte. */
#include <unistd.h>

#include "fuzz.h"
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena arena = {0};
  SafeFile file;
  int fd;
  const char *path = fuzz_file(&arena, data, size, &fd);
  if (safetensors_open(&arena, path, &file) == OK) {
    volatile unsigned sum = 0;
    for (int t = 0; t < file.count; t++)
      for (size_t i = 0; i < file.tensors[t].bytes; i++) sum += ((const uint8_t *)file.tensors[t].data)[i];
    (void)!safetensors_verify(&file);
    safetensors_close(&file);
  }
  close(fd);
  arena_free(&arena);
  return 0;
}
