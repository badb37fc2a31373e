#include "model_files.h"

#include "base/text.h"

static const char *const names[] = {"tokenizer.json",
                                    "tokenizer_config.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "vocab.txt",
                                    "added_tokens.json",
                                    "special_tokens_map.json",
                                    "generation_config.json"};

Status model_files_copy(Arena *arena, const char *from, const char *to) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *path = path_join(arena, from, names[i]);
    if (!file_exists(path)) continue;
    FileMap map;
    TRY(file_map(path, &map));
    Status status = file_write(path_join(arena, to, names[i]), map.data, map.length);
    file_unmap(&map);
    TRY(status);
  }
  return OK;
}
