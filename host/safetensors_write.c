#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "safetensors.h"

enum { ALIGNMENT = 64, CHUNK = 1 << 20, CHUNK_ELEMENTS = 1 << 20 };

/* A file in the making: everything written is hashed on its way, so that nothing is read twice. */
typedef struct Writer {
  const char *path, *temporary;
  int fd;
  Hash *hash;
  const SafeTensor *tensors; /* as the caller gave them */
  RowSource source;          /* of tensors without data */
  void *context;
  Status status; /* of source */
} Writer;

static void add_json_string(Text *text, const char *value) {
  cJSON *item = cJSON_CreateString(value);
  char *printed = item ? cJSON_PrintUnformatted(item) : NULL;
  if (!printed) arena_exhausted(strlen(value));
  text_add(text, printed, strlen(printed));
  cJSON_free(printed);
  cJSON_Delete(item);
}

static size_t tensor_bytes(const SafeTensor *tensor) {
  size_t bytes = safe_type_bytes(tensor->type);
  for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

static int larger_type_first(const void *a, const void *b) {
  const SafeTensor *x = *(const SafeTensor *const *)a, *y = *(const SafeTensor *const *)b;
  size_t bx = safe_type_bytes(x->type), by = safe_type_bytes(y->type);
  if (bx != by) return bx > by ? -1 : 1;
  return (x > y) - (x < y); /* elements of one array: keeps the caller's order */
}

/* Length prefix and JSON header with a checksum of zeros, padded with spaces to the alignment. */
static Text make_header(Arena *arena, const SafeTensor *const *order, int count, const SafeMeta *meta,
                        int meta_count) {
  Text text = {.arena = arena};
  text_add(&text, "\0\0\0\0\0\0\0", SAFE_PREFIX);
  text_print(&text, SAFE_CHECKSUM_LEAD SAFE_CHECKSUM_ZEROS "\"");
  for (int i = 0; i < meta_count; i++) {
    text_print(&text, ",");
    add_json_string(&text, meta[i].key);
    text_print(&text, ":");
    add_json_string(&text, meta[i].value);
  }
  text_print(&text, "}");
  size_t offset = 0;
  for (int i = 0; i < count; i++) {
    const SafeTensor *tensor = order[i];
    text_print(&text, ",");
    add_json_string(&text, tensor->name);
    text_print(&text, ":{\"dtype\":\"%s\",\"shape\":[", safe_type_name(tensor->type));
    for (int d = 0; d < tensor->rank; d++)
      text_print(&text, d ? ",%lld" : "%lld", (long long)tensor->shape[d]);
    size_t end = offset + tensor_bytes(tensor);
    text_print(&text, "],\"data_offsets\":[%zu,%zu]}", offset, end);
    offset = end;
  }
  text_print(&text, "}");
  while (text.length % ALIGNMENT) text_add(&text, " ", 1);
  for (int i = 0; i < SAFE_PREFIX; i++)
    text.data[i] = (char)((uint64_t)(text.length - SAFE_PREFIX) >> (8 * i));
  return text;
}

static bool put(Writer *writer, const char *data, size_t length) {
  while (length > 0) {
    size_t part = length < CHUNK ? length : CHUNK;
    hash_bytes(writer->hash, data, part);
    length -= part;
    while (part > 0) {
      ssize_t written = write(writer->fd, data, part);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      data += written;
      part -= (size_t)written;
    }
  }
  return true;
}

static ElementType element_of(SafeType type) {
  return type == SAFE_F16 ? ELEMENT_F16 : type == SAFE_BF16 ? ELEMENT_BF16 : ELEMENT_F32;
}

/* A tensor that source gives, about a million values at a time. */
static bool put_rows(Writer *writer, const SafeTensor *tensor) {
  int64_t rows = tensor->rank > 1 ? tensor->shape[0] : 1, cols = tensor->shape[tensor->rank > 1];
  int64_t step = CHUNK_ELEMENTS / cols > 0 ? CHUNK_ELEMENTS / cols : 1;
  if (step > rows) step = rows;
  Arena scratch = {0};
  float *values = NEW(&scratch, float, step *cols);
  unsigned char *bytes = NEW(&scratch, unsigned char, (size_t)(step * cols) * safe_type_bytes(tensor->type));
  bool good = true;
  for (int64_t first = 0; first < rows && good; first += step) {
    int64_t count = rows - first < step ? rows - first : step;
    writer->status = writer->source(writer->context, (int)(tensor - writer->tensors), first, count, values);
    if (writer->status != OK) good = false;
    size_t total = (size_t)(count * cols);
    if (good) elements[element_of(tensor->type)].write(bytes, values, total);
    good = good && put(writer, (const char *)bytes, total * safe_type_bytes(tensor->type));
  }
  arena_free(&scratch);
  return good;
}

static bool put_tensor(Writer *writer, const SafeTensor *tensor) {
  return tensor->data || tensor_bytes(tensor) == 0 ? put(writer, tensor->data, tensor_bytes(tensor))
                                                   : put_rows(writer, tensor);
}

static bool put_all(Writer *writer, const Text *header, const SafeTensor *const *order, int count) {
  bool good = put(writer, header->data, header->length);
  for (int i = 0; good && i < count; i++) good = put_tensor(writer, order[i]);
  if (!good) return false;
  char hex[SAFE_DIGITS + 1];
  hash_hex(writer->hash, hex);
  off_t at = SAFE_PREFIX + SAFE_LEAD;
  return pwrite(writer->fd, hex, SAFE_DIGITS, at) == SAFE_DIGITS && fsync(writer->fd) == 0;
}

static bool put_in_place(const Writer *writer, Arena *arena, bool keep_previous) {
  const char *previous = arena_print(arena, "%s.previous", writer->path);
  bool moved = keep_previous && rename(writer->path, previous) == 0;
  if (keep_previous && !moved && errno != ENOENT) return false;
  if (rename(writer->temporary, writer->path) != 0) {
    int reason = errno;
    if (moved) (void)!rename(previous, writer->path);
    errno = reason;
    return false;
  }
  int folder = open(path_folder(arena, writer->path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder); /* some file systems cannot; the rename is atomic without it */
    close(folder);
  }
  return true;
}

static Status write_with(Arena *arena, Writer *writer, int count, const SafeMeta *meta, int meta_count,
                         bool keep_previous) {
  const SafeTensor **order = NEW(arena, const SafeTensor *, count + 1);
  for (int i = 0; i < count; i++) order[i] = &writer->tensors[i];
  qsort(order, (size_t)count, sizeof *order, larger_type_first);
  Text header = make_header(arena, order, count, meta, meta_count);
  writer->temporary = arena_print(arena, "%s.tmp", writer->path);
  writer->hash = hash_new(arena);
  writer->fd = open(writer->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd < 0)
    return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", writer->temporary,
                strerror(errno));
  errno = 0;
  bool good = put_all(writer, &header, order, count);
  int reason = errno;
  if (close(writer->fd) != 0 && good) {
    good = false;
    reason = errno;
  }
  if (good && !put_in_place(writer, arena, keep_previous)) {
    good = false;
    reason = errno;
  }
  if (good) return OK;
  unlink(writer->temporary);
  if (writer->status != OK) return writer->status;
  return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", writer->path,
              strerror(reason ? reason : ENOSPC));
}

Status safetensors_write(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                         int meta_count, bool keep_previous) {
  Arena arena = {0};
  Writer writer = {.path = path, .tensors = tensors};
  Status status = write_with(&arena, &writer, count, meta, meta_count, keep_previous);
  arena_free(&arena);
  return status;
}

Status safetensors_write_rows(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                              int meta_count, RowSource source, void *context) {
  Arena arena = {0};
  Writer writer = {.path = path, .tensors = tensors, .source = source, .context = context};
  Status status = write_with(&arena, &writer, count, meta, meta_count, false);
  arena_free(&arena);
  return status;
}
