#include "safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { MAX_HEADER = 100 * 1024 * 1024 }; /* the reference reader's limit */

static const struct TypeRow {
  const char *name;
  size_t bytes;
} types[SAFE_TYPE_COUNT] = {
    [SAFE_F64] = {"F64", 8},   [SAFE_F32] = {"F32", 4},         [SAFE_F16] = {"F16", 2},
    [SAFE_BF16] = {"BF16", 2}, [SAFE_I64] = {"I64", 8},         [SAFE_I32] = {"I32", 4},
    [SAFE_I16] = {"I16", 2},   [SAFE_I8] = {"I8", 1},           [SAFE_U64] = {"U64", 8},
    [SAFE_U32] = {"U32", 4},   [SAFE_U16] = {"U16", 2},         [SAFE_U8] = {"U8", 1},
    [SAFE_BOOL] = {"BOOL", 1}, [SAFE_F8_E4M3] = {"F8_E4M3", 1}, [SAFE_F8_E5M2] = {"F8_E5M2", 1},
};

const char *safe_type_name(SafeType type) { return types[type].name; }
size_t safe_type_bytes(SafeType type) { return types[type].bytes; }

static Status damaged(const SafeFile *file, size_t offset, const char *what) {
  return fail(INVALID, "%s: offset %zu: %s; the file is damaged or no safetensors file, use another copy",
              file->path, offset, what);
}

static Status bad_tensor(const SafeFile *file, const char *name, const char *what) {
  return fail(INVALID, "%s: offset %d: tensor \"%s\": %s; the file is damaged, use another copy", file->path,
              SAFE_PREFIX, name, what);
}

/* A JSON number that is an integer in [0, 2^53]. */
static bool whole(const cJSON *item, int64_t *out) {
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 0x1p53)) return false;
  if (item->valuedouble != floor(item->valuedouble)) return false;
  *out = (int64_t)item->valuedouble;
  return true;
}

static Status read_shape(const SafeFile *file, const cJSON *shape, SafeTensor *tensor) {
  if (!cJSON_IsArray(shape)) return bad_tensor(file, tensor->name, "it has no \"shape\"");
  size_t bytes = types[tensor->type].bytes;
  const cJSON *item;
  cJSON_ArrayForEach(item, shape) {
    if (tensor->rank == SAFE_MAX_RANK) return bad_tensor(file, tensor->name, "it has more than 8 dimensions");
    int64_t size;
    if (!whole(item, &size)) return bad_tensor(file, tensor->name, "a dimension is not a whole number");
    if (__builtin_mul_overflow(bytes, (size_t)size, &bytes))
      return bad_tensor(file, tensor->name, "its shape is too large for memory");
    tensor->shape[tensor->rank++] = size;
  }
  tensor->bytes = bytes;
  return OK;
}

static Status read_tensor(Arena *arena, const SafeFile *file, const cJSON *entry, SafeTensor *tensor) {
  tensor->name = arena_strdup(arena, entry->string);
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
  if (!cJSON_IsString(dtype)) return bad_tensor(file, tensor->name, "it has no \"dtype\"");
  int type = 0;
  while (type < SAFE_TYPE_COUNT && strcmp(types[type].name, dtype->valuestring) != 0) type++;
  if (type == SAFE_TYPE_COUNT)
    return fail(INVALID,
                "%s: offset %d: tensor \"%s\": dtype \"%.32s\" is not known; convert it to F32 or BF16",
                file->path, SAFE_PREFIX, tensor->name, dtype->valuestring);
  tensor->type = (SafeType)type;
  TRY(read_shape(file, cJSON_GetObjectItemCaseSensitive(entry, "shape"), tensor));

  const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
  int64_t begin, end;
  if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
      !whole(cJSON_GetArrayItem(offsets, 0), &begin) || !whole(cJSON_GetArrayItem(offsets, 1), &end) ||
      end < begin)
    return bad_tensor(file, tensor->name, "\"data_offsets\" is not a rising pair of whole numbers");
  if ((size_t)end > file->map.length - file->data_start)
    return fail(INVALID,
                "%s: offset %zu: tensor \"%s\" should end there but the file ends at %zu; it is cut off, use "
                "another copy",
                file->path, file->data_start + (size_t)end, tensor->name, file->map.length);
  if ((size_t)(end - begin) != tensor->bytes)
    return bad_tensor(file, tensor->name, "its shape and its \"data_offsets\" do not have the same size");
  tensor->data = file->map.data + file->data_start + begin;
  return OK;
}

static int by_data(const void *a, const void *b) {
  const SafeTensor *x = *(const SafeTensor *const *)a, *y = *(const SafeTensor *const *)b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(const SafeTensor *const *)a)->name, (*(const SafeTensor *const *)b)->name);
}

/* The tensors fill the data without overlap or hole, and no name stands twice. */
static Status check_layout(Arena *arena, const SafeFile *file) {
  const SafeTensor **order = NEW(arena, const SafeTensor *, file->count);
  for (int i = 0; i < file->count; i++) order[i] = &file->tensors[i];
  qsort(order, (size_t)file->count, sizeof *order, by_data);
  const char *at = file->map.data + file->data_start;
  for (int i = 0; i < file->count; i++) {
    const char *begin = order[i]->data;
    if (begin != at)
      return fail(INVALID, "%s: offset %zu: tensor \"%s\" %s; the file is damaged, use another copy",
                  file->path, (size_t)(begin - file->map.data), order[i]->name,
                  begin < at ? "overlaps the one before it" : "leaves a hole before it");
    at = begin + order[i]->bytes;
  }
  if (at != file->map.data + file->map.length)
    return damaged(file, (size_t)(at - file->map.data), "bytes that belong to no tensor follow");
  qsort(order, (size_t)file->count, sizeof *order, by_name);
  for (int i = 1; i < file->count; i++)
    if (strcmp(order[i - 1]->name, order[i]->name) == 0)
      return bad_tensor(file, order[i]->name, "it stands twice");
  return OK;
}

static Status read_meta(Arena *arena, SafeFile *file, const cJSON *meta) {
  if (!cJSON_IsObject(meta)) return damaged(file, SAFE_PREFIX, "\"__metadata__\" is not an object");
  file->meta = NEW(arena, SafeMeta, cJSON_GetArraySize(meta) + 1);
  file->meta_count = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, meta) {
    if (!cJSON_IsString(item))
      return damaged(file, SAFE_PREFIX, "a value in \"__metadata__\" is not a string");
    file->meta[file->meta_count++] =
        (SafeMeta){arena_strdup(arena, item->string), arena_strdup(arena, item->valuestring)};
  }
  return OK;
}

static Status read_entries(Arena *arena, SafeFile *file, const cJSON *root) {
  if (!cJSON_IsObject(root)) return damaged(file, SAFE_PREFIX, "the header is not a JSON object");
  file->tensors = NEW(arena, SafeTensor, cJSON_GetArraySize(root) + 1);
  const cJSON *entry;
  cJSON_ArrayForEach(entry, root) {
    if (strcmp(entry->string, "__metadata__") == 0)
      TRY(read_meta(arena, file, entry));
    else if (!cJSON_IsObject(entry))
      return bad_tensor(file, entry->string, "its entry is not an object");
    else
      TRY(read_tensor(arena, file, entry, &file->tensors[file->count++]));
  }
  return check_layout(arena, file);
}

static Status read_header(Arena *arena, SafeFile *file) {
  const unsigned char *bytes = (const unsigned char *)file->map.data;
  if (file->map.length < SAFE_PREFIX + 2)
    return damaged(file, file->map.length, "the file ends before its header");
  uint64_t length = 0;
  for (int i = SAFE_PREFIX - 1; i >= 0; i--) length = length << 8 | bytes[i];
  if (length > MAX_HEADER) return damaged(file, 0, "the header's length is over 100 MiB");
  if (length > file->map.length - SAFE_PREFIX)
    return fail(INVALID,
                "%s: offset 0: the header should have %llu bytes but the file has %zu; it is cut off, use "
                "another copy",
                file->path, (unsigned long long)length, file->map.length);
  file->data_start = SAFE_PREFIX + (size_t)length;
  const char *text = file->map.data + SAFE_PREFIX, *end = NULL;
  size_t invalid = utf8_invalid_at(text, length);
  if (invalid < length) return damaged(file, SAFE_PREFIX + invalid, "the header is not UTF-8");
  cJSON *root = cJSON_ParseWithLengthOpts(text, length, &end, 0);
  size_t stop = end ? (size_t)(end - text) : 0;
  Status status = OK;
  if (!root) {
    status = damaged(file, SAFE_PREFIX + stop, "the header is not JSON");
  } else {
    while (stop < length && text[stop] == ' ') stop++;
    status = stop < length ? damaged(file, SAFE_PREFIX + stop, "text follows the header's JSON")
                           : read_entries(arena, file, root);
  }
  cJSON_Delete(root);
  return status;
}

Status safetensors_open(Arena *arena, const char *path, SafeFile *out) {
  *out = (SafeFile){.path = arena_strdup(arena, path)};
  TRY(file_map(path, &out->map));
  Status status = read_header(arena, out);
  if (status != OK) safetensors_close(out);
  return status;
}

void safetensors_close(SafeFile *file) {
  if (file->path) file_unmap(&file->map);
  file->tensors = NULL;
  file->count = 0;
}

const SafeTensor *safetensors_find(const SafeFile *file, const char *name) {
  for (int i = 0; i < file->count; i++)
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  return NULL;
}

const char *safetensors_meta(const SafeFile *file, const char *key) {
  for (int i = 0; i < file->meta_count; i++)
    if (strcmp(file->meta[i].key, key) == 0) return file->meta[i].value;
  return NULL;
}

/* The length prefix and the header, up to its checksum's digits, zeros, and the rest. */
static void hash_header(Hash *hash, const char *bytes, size_t length) {
  hash_bytes(hash, bytes, SAFE_PREFIX + SAFE_LEAD);
  hash_bytes(hash, SAFE_CHECKSUM_ZEROS, SAFE_DIGITS);
  hash_bytes(hash, bytes + SAFE_PREFIX + SAFE_LEAD + SAFE_DIGITS,
             length - SAFE_PREFIX - SAFE_LEAD - SAFE_DIGITS);
}

enum { VERIFIED = 4 << 20 }; /* bytes that are hashed, then released */

Status safetensors_verify(const SafeFile *file) {
  const char *digits = file->map.data + SAFE_PREFIX + SAFE_LEAD;
  if (file->data_start < SAFE_PREFIX + SAFE_LEAD + SAFE_DIGITS ||
      memcmp(file->map.data + SAFE_PREFIX, SAFE_CHECKSUM_LEAD, SAFE_LEAD) != 0)
    return fail(
        INVALID,
        "%s: offset %d: the header has no checksum where this program writes it; import the file instead",
        file->path, SAFE_PREFIX);
  Arena scratch = {0};
  Hash *hash = hash_new(&scratch);
  hash_header(hash, file->map.data, file->data_start);
  for (size_t at = file->data_start, part; at < file->map.length; at += part) {
    part = file->map.length - at < VERIFIED ? file->map.length - at : VERIFIED;
    hash_bytes(hash, file->map.data + at, part);
    file_release(&file->map, file->map.data + at, part);
  }
  char hex[SAFE_DIGITS + 1];
  hash_hex(hash, hex);
  arena_free(&scratch);
  if (memcmp(hex, digits, SAFE_DIGITS) != 0)
    return fail(
        INVALID,
        "%s: offset %d: the checksum is %.32s but the content has %s; the file is damaged, use another copy",
        file->path, SAFE_PREFIX + SAFE_LEAD, digits, hex);
  return OK;
}
