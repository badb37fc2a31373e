/* The tokenizer stage: trained from the train file and the instruction, or taken over. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stage.h"
#include "testing.h"
#include "tokenizer.h"

static void a_trained_tokenizer_is_taken_over_unchanged(void **state) {
  (void)state;
  Arena arena = {0};
  char folder[] = "/tmp/popalm-stage-XXXXXX";
  assert_non_null(mkdtemp(folder));
  char *train = path_join(&arena, folder, "train.json"), *made = path_join(&arena, folder, "tokenizer.json"),
       *kept = path_join(&arena, folder, "kept.json");
  const char *text =
      "{\"weibo\":\"加油加油\",\"resp\":[\"加油\",\"好看\"]}\n{\"weibo\":\"好看\",\"resp\":[\"好看好看\"]}\n";
  assert_int_equal(file_write(train, text, strlen(text)), OK);
  Experiment experiment = {.data.instruction = "instruction instruction:", .tokenizer = {NULL, 300, 2}};
  StageContext context = {.experiment = &experiment, .arena = &arena, .folder = folder, .train = train};
  assert_int_equal(stage_tokenizer(&context), OK);
  Tokenizer *tokenizer;
  assert_int_equal(tokenizer_load(&arena, made, &tokenizer), OK);
  int32_t token[8];
  assert_int_equal(tokenizer_encode(tokenizer, "加油", 6, token, 8), 1);
  assert_int_equal(tokenizer_encode(tokenizer, "好看", 6, token, 8), 1); /* a reply */
  assert_int_equal(tokenizer_encode(tokenizer, "instruction", 11, token, 8) < 11,
                   1); /* once with a space before */
  assert_int_equal(rename(made, kept), 0);
  experiment.tokenizer.path = kept;
  assert_int_equal(stage_tokenizer(&context), OK);
  FileMap a, b;
  assert_int_equal(file_map(kept, &a), OK);
  assert_int_equal(file_map(made, &b), OK);
  assert_int_equal(a.length, b.length);
  assert_memory_equal(a.data, b.data, a.length);
  file_unmap(&a);
  file_unmap(&b);
  experiment.tokenizer.path = train; /* no tokenizer at all */
  assert_int_equal(stage_tokenizer(&context), INVALID);
  unlink(train);
  unlink(made);
  unlink(kept);
  rmdir(folder);
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_trained_tokenizer_is_taken_over_unchanged)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
