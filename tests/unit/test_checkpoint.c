/* Checkpoints: what was written comes back; what is damaged is refused; what stood before survives. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/philox.h"
#include "checkpoint.h"
#include "safetensors.h"
#include "testing.h"

static char folder[] = "/tmp/popalm-checkpoint-XXXXXX";
static char path[256], previous[300];

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return 1;
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  snprintf(previous, sizeof previous, "%s.previous", path);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  unlink(previous);
  return rmdir(folder); /* fails when a temporary file was left */
}

static int clean(void **state) {
  (void)state;
  unlink(path);
  unlink(previous);
  return 0;
}

/* A few tensors of every type with ragged shapes, filled from a seed. */
static int make_tensors(Arena *arena, uint64_t seed, HostTensor *tensors) {
  static const char *const names[] = {"embed.weight", "layers.0.\"odd\"\\name", "bytes", "步数", "empty",
                                      "scalar"};
  static const DType types[] = {BF16, F32, U8, I32, F32, F32};
  enum { COUNT = 6 };
  RandomKey key = {seed, RANDOM_TEST, 0};
  for (int i = 0; i < COUNT; i++) {
    HostTensor *tensor = &tensors[i];
    *tensor = (HostTensor){.name = names[i], .type = types[i], .rank = i < 4 ? 1 + i : i == 4 ? 2 : 0};
    size_t bytes = dtype_bytes(types[i]);
    for (int d = 0; d < tensor->rank; d++) {
      tensor->shape[d] = i == 4 ? d * 3 : 1 + (int)random_below(key, (uint32_t)i, (uint32_t)d, 9);
      bytes *= (size_t)tensor->shape[d];
    }
    unsigned char *data = arena_alloc(arena, bytes + 1);
    for (size_t b = 0; b < bytes; b++)
      data[b] = (unsigned char)philox(key, 100 + (uint32_t)i, (uint32_t)b).v[0];
    tensor->data = data;
  }
  return COUNT;
}

static size_t bytes_of(const HostTensor *tensor) {
  size_t bytes = dtype_bytes(tensor->type);
  for (int d = 0; d < tensor->rank; d++) bytes *= (size_t)tensor->shape[d];
  return bytes;
}

static void write_numbered(Arena *arena, int number, bool keep) {
  HostTensor tensors[8];
  int count = make_tensors(arena, (uint64_t)number, tensors);
  cJSON *meta = cJSON_CreateObject();
  cJSON_AddNumberToObject(meta, "step", number);
  cJSON_AddStringToObject(meta, "note", "\"checksum\":\"x\" \\ 你");
  assert_int_equal(checkpoint_write(path, tensors, count, meta, keep), OK);
  cJSON_Delete(meta);
}

static int step_of(const Checkpoint *checkpoint) {
  return cJSON_GetObjectItem(checkpoint->meta, "step")->valueint;
}

static void put_file(const char *to, const void *data, size_t length) {
  int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, data, length), (ssize_t)length);
  close(fd);
}

static void what_was_written_comes_back(void **state) {
  (void)state;
  for (int seed = 1; seed <= 20; seed++) {
    Arena arena = {0};
    HostTensor tensors[8];
    int count = make_tensors(&arena, (uint64_t)seed, tensors);
    write_numbered(&arena, seed, false);
    Checkpoint checkpoint;
    assert_int_equal(checkpoint_open(&arena, path, &checkpoint), OK);
    assert_int_equal(checkpoint.count, count);
    assert_int_equal(step_of(&checkpoint), seed);
    assert_string_equal(cJSON_GetObjectItem(checkpoint.meta, "note")->valuestring,
                        "\"checksum\":\"x\" \\ 你");
    for (int i = 0; i < count; i++) {
      const HostTensor *read = checkpoint_tensor(&checkpoint, tensors[i].name);
      assert_non_null(read);
      assert_int_equal(read->type, tensors[i].type);
      assert_int_equal(read->rank, tensors[i].rank);
      assert_memory_equal(read->shape, tensors[i].shape, sizeof read->shape);
      assert_memory_equal(read->data, tensors[i].data, bytes_of(&tensors[i]));
      assert_int_equal((uintptr_t)read->data % dtype_bytes(read->type), 0);
    }
    assert_null(checkpoint_tensor(&checkpoint, "none"));
    checkpoint_close(&checkpoint);
    arena_free(&arena);
  }
}

static void data_starts_at_a_multiple_of_64(void **state) {
  (void)state;
  Arena arena = {0};
  write_numbered(&arena, 3, false);
  SafeFile file;
  assert_int_equal(safetensors_open(&arena, path, &file), OK);
  assert_int_equal(file.data_start % 64, 0);
  safetensors_close(&file);
  arena_free(&arena);
}

static void a_file_cut_anywhere_is_refused_by_name(void **state) {
  (void)state;
  Arena arena = {0};
  write_numbered(&arena, 5, false);
  FileMap whole;
  assert_int_equal(file_map(path, &whole), OK);
  char *copy = arena_strndup(&arena, whole.data, whole.length);
  for (size_t length = 0; length < whole.length; length += length < 1100 ? 1 : 7) {
    put_file(path, copy, length);
    Checkpoint checkpoint;
    assert_int_equal(checkpoint_open(&arena, path, &checkpoint), INVALID);
    assert_non_null(strstr(error_message(), path));
    assert_non_null(strstr(error_message(), "offset"));
  }
  file_unmap(&whole);
  arena_free(&arena);
}

static void any_flipped_bit_is_found(void **state) {
  (void)state;
  Arena arena = {0};
  write_numbered(&arena, 6, false);
  FileMap whole;
  assert_int_equal(file_map(path, &whole), OK);
  char *copy = arena_strndup(&arena, whole.data, whole.length);
  size_t length = whole.length;
  file_unmap(&whole);
  for (size_t at = 0; at < length; at++) {
    ArenaMark mark = arena_mark(&arena);
    copy[at] ^= (char)(1 << (at % 8));
    put_file(path, copy, length);
    copy[at] ^= (char)(1 << (at % 8));
    Checkpoint checkpoint;
    if (checkpoint_open(&arena, path, &checkpoint) == OK) fail_msg("a flipped bit at %zu was not seen", at);
    arena_reset(&arena, mark);
  }
  arena_free(&arena);
}

/* Files of 8 bytes of length, the header and `data` zeros. */
static Status open_header(const char *header, size_t data, uint64_t length) {
  unsigned char bytes[4096] = {0};
  size_t size = strlen(header);
  for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((length ? length : size) >> (8 * i));
  memcpy(bytes + 8, header, size);
  put_file(path, bytes, 8 + size + data);
  Arena arena = {0};
  SafeFile file;
  Status status = safetensors_open(&arena, path, &file);
  if (status == OK) safetensors_close(&file);
  arena_free(&arena);
  return status;
}

static void hostile_headers_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data;
    uint64_t length; /* 0: the true one */
    const char *reason;
  } rows[] = {
      {"{}", 0, 1ull << 62, "100 MiB"},
      {"{}", 0, UINT64_MAX, "100 MiB"},
      {"{}", 0, 3, "cut off"},
      {"[]", 0, 0, "not a JSON object"},
      {"{\"a\":}", 0, 0, "not JSON"},
      {"{}x", 0, 0, "text follows"},
      {"{\"a\xff\":1}", 0, 0, "UTF-8"},
      {"{\"a\":1}", 0, 0, "not an object"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 0, "dtype"},
      {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 0, "not known"},
      {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, 0, "shape"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, 0, "data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, 0, "whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[0,4]}}", 4, 0, "whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, 0,
       "dimensions"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4, 0,
       "too large"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, 0, "rising pair"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, 0, "rising pair"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1e300]}}", 4, 0, "rising pair"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, 0, "rising pair"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, 0, "cut off"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, 0, "same size"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
       6, 0, "overlaps"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
       5, 0, "hole"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3, 0, "no tensor"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
       4, 0, "twice"},
      {"{\"__metadata__\":[]}", 0, 0, "__metadata__"},
      {"{\"__metadata__\":{\"a\":1}}", 0, 0, "not a string"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (open_header(rows[i].header, rows[i].data, rows[i].length) != INVALID)
      fail_msg("accepted: %s", rows[i].header);
    if (!strstr(error_message(), rows[i].reason)) fail_msg("%s: said %s", rows[i].header, error_message());
    assert_non_null(strstr(error_message(), path));
  }
  assert_int_equal(open_header("{}", 0, 0), OK);
  assert_int_equal(open_header("{\"a\":{\"dtype\":\"F16\",\"shape\":[2,0],\"data_offsets\":[0,0]},"
                               "\"b\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}   ",
                               8, 0),
                   OK);
}

static void files_of_other_tools_are_no_checkpoints(void **state) {
  (void)state;
  assert_int_equal(open_header("{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0), OK);
  Arena arena = {0};
  Checkpoint checkpoint;
  assert_int_equal(checkpoint_open(&arena, path, &checkpoint), INVALID);
  assert_non_null(strstr(error_message(), "import"));
  arena_free(&arena);
}

static void the_one_before_replaces_a_damaged_one(void **state) {
  (void)state;
  Arena arena = {0};
  Checkpoint checkpoint;
  bool found = true;
  assert_int_equal(checkpoint_open_newest(&arena, path, &checkpoint, &found), OK);
  assert_false(found);
  write_numbered(&arena, 1, true);
  write_numbered(&arena, 2, true);
  assert_int_equal(checkpoint_open_newest(&arena, path, &checkpoint, &found), OK);
  assert_true(found);
  assert_int_equal(step_of(&checkpoint), 2);
  checkpoint_close(&checkpoint);

  assert_int_equal(truncate(path, 100), 0);
  int quiet = dup(2), nowhere = open("/dev/null", O_WRONLY);
  dup2(nowhere, 2);
  assert_int_equal(checkpoint_open_newest(&arena, path, &checkpoint, &found), OK);
  dup2(quiet, 2);
  close(quiet);
  close(nowhere);
  assert_true(found);
  assert_int_equal(step_of(&checkpoint), 1);
  checkpoint_close(&checkpoint);

  unlink(path); /* a crash between the two renames leaves only the previous one */
  assert_int_equal(checkpoint_open_newest(&arena, path, &checkpoint, &found), OK);
  assert_int_equal(step_of(&checkpoint), 1);
  checkpoint_close(&checkpoint);

  assert_int_equal(truncate(previous, 100), 0);
  assert_int_equal(checkpoint_open_newest(&arena, path, &checkpoint, &found), INVALID);
  assert_non_null(strstr(error_message(), previous));
  arena_free(&arena);
}

static void a_full_disk_keeps_the_old_file(void **state) {
  (void)state;
  Arena arena = {0};
  write_numbered(&arena, 1, true);
  struct rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, SIG_IGN);
  float *large = NEW(&arena, float, 1 << 16);
  HostTensor tensor = {.name = "large", .type = F32, .rank = 1, .shape = {1 << 16}, .data = large};
  cJSON *meta = cJSON_CreateObject();
  static const rlim_t limits[] = {0, 1, 100, 192, 1000, 1 << 17, (1 << 18) + 100};
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    small = old;
    small.rlim_cur = limits[i];
    setrlimit(RLIMIT_FSIZE, &small);
    Status status = checkpoint_write(path, &tensor, 1, meta, true);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, FAILED);
    assert_non_null(strstr(error_message(), path));
    Checkpoint checkpoint;
    assert_int_equal(checkpoint_open(&arena, path, &checkpoint), OK);
    assert_int_equal(step_of(&checkpoint), 1);
    checkpoint_close(&checkpoint);
    assert_false(file_exists(previous));
  }
  cJSON_Delete(meta);
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(what_was_written_comes_back, clean),
      cmocka_unit_test_teardown(data_starts_at_a_multiple_of_64, clean),
      cmocka_unit_test_teardown(a_file_cut_anywhere_is_refused_by_name, clean),
      cmocka_unit_test_teardown(any_flipped_bit_is_found, clean),
      cmocka_unit_test_teardown(hostile_headers_are_refused, clean),
      cmocka_unit_test_teardown(files_of_other_tools_are_no_checkpoints, clean),
      cmocka_unit_test_teardown(the_one_before_replaces_a_damaged_one, clean),
      cmocka_unit_test_teardown(a_full_disk_keeps_the_old_file, clean),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
