/* Any bytes as a file of posts and as a file of pairs: refused with the place, or every line can be read, and the file
 * is detected as what it is. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataset.h"
#include "fuzz.h"

static void require(bool holds) {
  if (!holds) abort();
}

static void read_lines(const Dataset *dataset) {
  Arena scratch = {0};
  for (int64_t i = 0; i < dataset->count; i++) {
    Post post = {0};
    Pair pair = {0};
    if (dataset->kind == DATASET_POSTS) {
      require(dataset_post(dataset, i, &scratch, &post) == OK && post.text && post.replies > 0);
      for (int r = 0; r < post.replies; r++) require(post.reply[r] && (!post.like || post.like[r] >= 0));
    } else {
      require(dataset_pair(dataset, i, &scratch, &pair) == OK);
      require(pair.post && pair.reply_j && pair.reply_k && pair.like_j >= 0 && pair.like_k >= 0);
    }
  }
  arena_free(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena arena = {0};
  int fd;
  const char *path = fuzz_file(&arena, data, size, &fd);
  DatasetKind detected;
  Status status = dataset_detect(path, &detected);
  bool opened[2] = {false, false};
  for (DatasetKind kind = DATASET_POSTS; kind <= DATASET_PAIRS; kind++) {
    Dataset dataset;
    if (dataset_open(&arena, path, kind, &dataset) != OK) {
      require(strncmp(error_message(), path, strlen(path)) == 0 && !strchr(error_message(), '\n'));
      continue;
    }
    opened[kind] = true;
    read_lines(&dataset);
    dataset_close(&dataset);
  }
  if (opened[DATASET_POSTS] || opened[DATASET_PAIRS]) require(status == OK && opened[detected]);
  close(fd);
  arena_free(&arena);
  return 0;
}
