/* The safetensors container: 8-byte little-endian header length, JSON header, tensors back to back. Reads
 * files of other tools too. Nothing of a file is trusted: lengths, offsets, shapes and types are checked. */
#ifndef POPALM_SAFETENSORS_H
#define POPALM_SAFETENSORS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"
#include "elements.h"

enum { SAFE_MAX_RANK = 8 };

/* Headers written here start with these bytes, then the checksum's 32 digits: found without parsing. */
#define SAFE_CHECKSUM_LEAD "{\"__metadata__\":{\"checksum\":\""
#define SAFE_CHECKSUM_ZEROS "00000000000000000000000000000000"
enum { SAFE_PREFIX = 8, SAFE_LEAD = sizeof SAFE_CHECKSUM_LEAD - 1, SAFE_DIGITS = 32 };

typedef enum SafeType {
  SAFE_F64,
  SAFE_F32,
  SAFE_F16,
  SAFE_BF16,
  SAFE_I64,
  SAFE_I32,
  SAFE_I16,
  SAFE_I8,
  SAFE_U64,
  SAFE_U32,
  SAFE_U16,
  SAFE_U8,
  SAFE_BOOL,
  SAFE_F8_E4M3,
  SAFE_F8_E5M2,
  SAFE_TYPE_COUNT
} SafeType;

typedef struct SafeTensor {
  const char *name;
  SafeType type;
  int rank;
  int64_t shape[SAFE_MAX_RANK];
  size_t bytes;     /* product of shape times the type's size; filled in by the reader */
  const void *data; /* reading: into the map, aligned to the type only in files written here */
} SafeTensor;

typedef struct SafeMeta {
  const char *key, *value;
} SafeMeta;

typedef struct SafeFile {
  const char *path;
  FileMap map;
  size_t data_start; /* offset of the first tensor's byte in the file */
  SafeTensor *tensors;
  int count;
  SafeMeta *meta; /* the header's __metadata__ */
  int meta_count;
} SafeFile;

const char *safe_type_name(SafeType type); /* "BF16" */
size_t safe_type_bytes(SafeType type);

/* Streams the tensors to path.tmp, fsyncs and renames, so that path is always a whole file. The data starts
 * at a multiple of 64 bytes and larger types come first, so that every tensor is aligned. __metadata__ begins
 * with "checksum": XXH3-128 over the file with the checksum's own digits as zeros. What stood at path is
 * kept as path.previous when keep_previous; when anything fails it stays where it was. */
Status safetensors_write(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                         int meta_count, bool keep_previous) CHECKED;
/* The same where source gives the tensors that have no data, which are F32, F16 or BF16 of rank 1 or 2; so the
 * file may be larger than memory. index is that into tensors. */
Status safetensors_write_rows(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                              int meta_count, RowSource source, void *context) CHECKED;
/* Maps a file and checks its header; messages name the file, the offset and the reason. */
Status safetensors_open(Arena *arena, const char *path, SafeFile *out) CHECKED;
void safetensors_close(SafeFile *file);
/* Checks the checksum that safetensors_write made; a file without one is refused. Reads the whole file. */
Status safetensors_verify(const SafeFile *file) CHECKED;
/* NULL when there is none. */
const SafeTensor *safetensors_find(const SafeFile *file, const char *name);
const char *safetensors_meta(const SafeFile *file, const char *key);

#endif
