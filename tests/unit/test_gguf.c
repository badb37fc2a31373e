/* The GGUF reader: what was written is read back, and every way in which a file can lie is refused with its
 * name and an offset. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gguf.h"
#include "testing.h"

static const char model[] = "tests/fixtures/models/smollm2.gguf";
static char scratch[] = "/tmp/popalm-gguf-XXXXXX";

static Text read_model(Arena *arena) {
  FileMap map;
  if (file_map(model, &map) != OK) fail_msg("%s", error_message());
  Text text = {.arena = arena};
  text_add(&text, map.data, map.length);
  file_unmap(&map);
  return text;
}

/* From a file in memory, since it happens thousands of times. */
static Status open_bytes(Arena *arena, const char *bytes, size_t length, GgufFile *out) {
  int fd = memfd_create("gguf", MFD_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, bytes, length), length);
  Status status = gguf_open(arena, arena_print(arena, "/proc/self/fd/%d", fd), out);
  close(fd);
  return status;
}

static void refused(Arena *arena, const Text *bytes, const char *what, const char *said) {
  GgufFile file;
  if (open_bytes(arena, bytes->data, bytes->length, &file) != INVALID) fail_msg("%s was not refused", what);
  if (!strstr(error_message(), said)) fail_msg("%s: \"%s\" does not say \"%s\"", what, error_message(), said);
  if (!strstr(error_message(), "/proc/self/fd/") || !strstr(error_message(), "offset "))
    fail_msg("%s: \"%s\" names no file and offset", what, error_message());
}

/* Where the description of a tensor stands behind its name: dimensions' count, 8 bytes each, type, offset. */
static char *behind(const Text *bytes, const char *name) {
  char *at = memmem(bytes->data, bytes->length, name, strlen(name));
  if (!at) fail_msg("no %s in the fixture", name);
  return at + strlen(name);
}

static void put(char *at, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; i++) at[i] = (char)(value >> (8 * i));
}

/* A patch: `size` bytes of value, `distance` bytes behind a name ("": from the file's begin). */
typedef struct Patch {
  const char *what, *name;
  int distance;
  uint64_t value;
  size_t size;
  const char *said;
} Patch;

static const Patch patches[] = {
    {"another magic", "", 0, 0x46554746, 4, "does not begin with GGUF"},
    {"version 1", "", 4, 1, 4, "version 1 is not read"},
    {"a big-endian version", "", 4, 0x03000000, 4, "is not read"},
    {"more tensors than bytes", "", 8, UINT64_MAX, 8, "more tensors or keys are announced"},
    {"one tensor more", "", 8, 22, 8, "offset"},
    {"more keys than bytes", "", 16, UINT64_MAX / 2, 8, "more tensors or keys are announced"},
    {"a key longer than the file", "", 24, UINT64_MAX, 8, "longer than the rest"},
    {"a key of no bytes", "", 24, 0, 8, "no or too many bytes"},
    {"a value of type 13", "llama.context_length", 0, 13, 4, "type is not known"},
    {"an array of arrays", "llama.context_length", 0, (uint64_t)GGUF_ARRAY << 32 | GGUF_ARRAY, 8,
     "array of arrays"},
    {"an endless array", "llama.context_length", 0, (uint64_t)GGUF_STRING << 32 | GGUF_ARRAY, 8,
     "longer than the rest"},
    {"no dimensions", "token_embd.weight", 0, 0, 4, "1 to 4 dimensions"},
    {"five dimensions", "token_embd.weight", 0, 5, 4, "1 to 4 dimensions"},
    {"a dimension of 0", "token_embd.weight", 4, 0, 8, "a dimension is not possible"},
    {"a dimension of 2^63", "token_embd.weight", 4, 1ull << 63, 8, "a dimension is not possible"},
    {"more values than memory", "token_embd.weight", 4, 1ull << 59, 8, "too large for memory"},
    {"more values than the file", "token_embd.weight", 12, 1ull << 40, 8, "the file ends at"},
    {"a type that is not read", "token_embd.weight", 20, 16, 4,
     "type 16, which is not read; take a file of F32, F16"},
    {"rows of half a block", "token_embd.weight", 20, 8, 4, "whole blocks"},
    {"an offset between", "token_embd.weight", 24, 4, 8, "no multiple of the alignment"},
    {"an offset behind the end", "token_embd.weight", 24, 1ull << 62, 8, "the file ends at"},
    {"two tensors in one place", "output_norm.weight", 16, 0, 8, "overlaps"},
};

static void a_lying_header_is_refused_with_its_offset(void **state) {
  (void)state;
  Arena arena = {0};
  for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
    const Patch *patch = &patches[i];
    Text bytes = read_model(&arena);
    char *from = patch->name[0] ? behind(&bytes, patch->name) : bytes.data;
    put(from + patch->distance, patch->value, patch->size);
    refused(&arena, &bytes, patch->what, patch->said);
  }
  Text bytes = read_model(&arena);
  put(bytes.data + 24, bytes.length - 32 + 1, 8);
  refused(&arena, &bytes, "a key one byte longer than the file", "longer than the rest");
  bytes = read_model(&arena);
  char *value = behind(&bytes, "llama.context_length");
  put(value, (uint64_t)GGUF_U64 << 32 | GGUF_ARRAY, 8);
  put(value + 8, bytes.length / 2, 8);
  refused(&arena, &bytes, "an array of more bytes than the file", "longer than the rest");
  arena_free(&arena);
}

static void names_stand_once_and_are_text(void **state) {
  (void)state;
  Arena arena = {0};
  Text bytes = read_model(&arena);
  memcpy(behind(&bytes, "blk.0.attn_k.weight") - 13, "attn_q", 6);
  refused(&arena, &bytes, "a tensor twice", "\"blk.0.attn_q.weight\" stands twice");
  bytes = read_model(&arena);
  memcpy(behind(&bytes, "llama.attention.key_length") - 10, "head_count", 10);
  refused(&arena, &bytes, "a key twice", "\"llama.attention.head_count\" stands twice");
  bytes = read_model(&arena);
  behind(&bytes, "token_emb")[0] = '\xff';
  refused(&arena, &bytes, "a name that is no text", "not UTF-8");
  bytes = read_model(&arena);
  behind(&bytes, "token_emb")[0] = 0;
  refused(&arena, &bytes, "a name with a zero", "not UTF-8");
  arena_free(&arena);
}

/* Cut anywhere or made longer, the file is refused. */
static void a_file_of_another_length_is_refused(void **state) {
  (void)state;
  Arena arena = {0};
  Text whole = read_model(&arena);
  GgufFile file;
  for (size_t length = 0; length < whole.length; length += length < 2048 ? 1 : 997) {
    ArenaMark mark = arena_mark(&arena);
    assert_int_equal(open_bytes(&arena, whole.data, length, &file), INVALID);
    assert_non_null(strstr(error_message(), "offset "));
    arena_reset(&arena, mark);
  }
  char zeros[64] = {0};
  text_add(&whole, zeros, sizeof zeros);
  refused(&arena, &whole, "bytes behind the end", "belong to no tensor");
  arena_free(&arena);
}

static Status count_up(void *context, int index, int64_t first, int64_t count, float *out) {
  const int64_t *cols = context;
  for (int64_t i = 0; i < count * cols[index]; i++) out[i] = (float)(index * 1000 + first * cols[index] + i);
  return OK;
}

static void what_was_written_is_read_back(void **state) {
  (void)state;
  Arena arena = {0};
  GgufWriter *writer = gguf_begin(&arena);
  gguf_add_string(writer, "s", "text");
  gguf_add_u32(writer, "u", 4000000000u);
  gguf_add_f32(writer, "f", -0.5f);
  gguf_add_bool(writer, "b", true);
  gguf_add_strings(writer, "ss", (GgufString[]){{"one", 3}, {"", 0}, {"three", 5}}, 3);
  gguf_add_i32s(writer, "ii", (int32_t[]){-1, 7}, 2);
  gguf_add_tensor(writer, "matrix", ELEMENT_F16, 3, 5);
  gguf_add_tensor(writer, "vector", ELEMENT_F32, 7, 0);
  if (gguf_finish(writer, scratch, count_up, (int64_t[]){5, 7}) != OK) fail_msg("%s", error_message());
  GgufFile file;
  if (gguf_open(&arena, scratch, &file) != OK) fail_msg("%s", error_message());
  assert_memory_equal(gguf_find(&file, "s")->string.text, "text", 4);
  assert_true(gguf_number(gguf_find(&file, "u"), 0) == 4000000000.0);
  assert_true(gguf_number(gguf_find(&file, "f"), 0) == -0.5);
  assert_true(gguf_number(gguf_find(&file, "b"), 0) == 1);
  assert_true(gguf_number(gguf_find(&file, "ii"), 0) == -1 && gguf_number(gguf_find(&file, "ii"), 1) == 7);
  const unsigned char *at = gguf_find(&file, "ss")->at;
  assert_int_equal(gguf_next_string(&at).length, 3);
  assert_int_equal(gguf_next_string(&at).length, 0);
  assert_memory_equal(gguf_next_string(&at).text, "three", 5);
  assert_null(gguf_find(&file, "t"));
  const GgufTensor *matrix = gguf_tensor(&file, "matrix"), *vector = gguf_tensor(&file, "vector");
  assert_true(matrix->rank == 2 && matrix->shape[0] == 3 && matrix->shape[1] == 5 && vector->rank == 1);
  float values[15];
  elements[ELEMENT_F16].read(matrix->data, values, 15);
  for (int i = 0; i < 15; i++) assert_true(values[i] == (float)i);
  elements[ELEMENT_F32].read(vector->data, values, 7);
  for (int i = 0; i < 7; i++) assert_true(values[i] == (float)(1000 + i));
  gguf_close(&file);
  arena_free(&arena);
}

static int make_scratch(void **state) {
  (void)state;
  int fd = mkstemp(scratch);
  return fd < 0 ? 1 : close(fd);
}

static int remove_scratch(void **state) {
  (void)state;
  return unlink(scratch);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_lying_header_is_refused_with_its_offset),
      cmocka_unit_test(names_stand_once_and_are_text),
      cmocka_unit_test(a_file_of_another_length_is_refused),
      cmocka_unit_test(what_was_written_is_read_back),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
