/* Any bytes as a GGUF file: its values, tokenizer and tensors, and the model that it describes. */
#include <unistd.h>

#include "fuzz.h"
#include "models/import.h"

static void read_values(const GgufFile *file) {
  volatile double sum = 0;
  for (int i = 0; i < file->value_count; i++) {
    const GgufValue *value = &file->values[i];
    const unsigned char *at = value->at;
    for (uint64_t e = 0; e < value->count; e++)
      if (value->type == GGUF_ARRAY && value->element == GGUF_STRING)
        sum += (double)gguf_next_string(&at).length;
      else if (value->type != GGUF_STRING)
        sum += gguf_number(value, e);
  }
}

static void read_tensors(const GgufFile *file) {
  float values[256];
  for (int t = 0; t < file->count; t++) {
    const Element *element = &elements[file->tensors[t].type];
    for (size_t at = 0; at < file->tensors[t].bytes; at += (size_t)element->bytes)
      element->read(file->tensors[t].data + at, values, 1);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena arena = {0};
  GgufFile file;
  ForeignModel model;
  int fd;
  const char *path = fuzz_file(&arena, data, size, &fd);
  if (gguf_open(&arena, path, &file) == OK) {
    read_values(&file);
    read_tensors(&file);
    cJSON *tokenizer = NULL;
    const char *why;
    (void)!import_gguf_tokenizer(&arena, &file, &tokenizer, &why);
    cJSON_Delete(tokenizer);
    cJSON_Delete(import_gguf_tokenizer_config(&arena, &file));
    gguf_close(&file);
  }
  if (import_open_gguf(&arena, path, 0, &model) == OK) {
    (void)!import_match(&arena, &model);
    import_close(&model);
  }
  close(fd);
  arena_free(&arena);
  return 0;
}
