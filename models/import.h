/* Models of other tools in and out. An opened foreign model is its description and its mapped tensors;
 * writing it into a folder of ours (or one of ours into theirs) goes a million values at a time, so that
 * neither side stands in memory. */
#ifndef POPALM_MODELS_IMPORT_H
#define POPALM_MODELS_IMPORT_H

#include "checkpoint.h"
#include "gguf.h"
#include "models/family.h"
#include "safetensors.h"

typedef struct ForeignTensor {
  const char *name, *path;
  int rank;
  int64_t shape[2]; /* of ranks above 2: {-1, -1}, which no parameter has */
  int type;         /* ElementType; -1: a type that weights do not have */
  const char *type_name;
  const unsigned char *data; /* in the map */
  size_t offset;             /* of data in the file */
  bool used;
} ForeignTensor;

typedef struct ForeignModel {
  const char *path;
  const Family *family;
  DecoderConfig config;
  Outside outside;
  ForeignTensor *tensors; /* by name */
  int count;
  SafeFile *shards; /* of a Hugging Face folder */
  int shard_count;
  GgufFile gguf; /* of a GGUF file */
} ForeignModel;

/* A folder with config.json and model.safetensors, or its parts with model.safetensors.index.json. context:
 * the longest sequence that shall be possible, 0: the model's own. */
Status import_open_hf(Arena *arena, const char *folder, int context, ForeignModel *out) CHECKED;
Status import_open_gguf(Arena *arena, const char *path, int context, ForeignModel *out) CHECKED;
void import_close(ForeignModel *model);
/* Writes folder/model.safetensors: bf16 where every part of a parameter is, else fp32. Tensors that are
 * missing, of another shape or left over are errors. */
Status import_write(Arena *arena, ForeignModel *model, const char *folder) CHECKED;
/* The checks of import_write alone. */
Status import_match(Arena *arena, ForeignModel *model) CHECKED;

/* What an export needs: the description and the mapped weights of a folder of ours. Of an adapter: those of
 * its base, with the adapter merged into the weights that it adapts. */
typedef struct OwnModel {
  Checkpoint checkpoint;
  Checkpoint base; /* of an adapter */
  DecoderConfig config;
  const Family *family;
} OwnModel;

Status export_open(Arena *arena, const char *folder, OwnModel *out) CHECKED;
void export_close(OwnModel *model);
/* Writes folder/model.safetensors (F32, F16 or BF16) and config.json. eos: the end token, -1: not known. */
Status export_hf(Arena *arena, const OwnModel *model, const char *folder, ElementType type, int eos) CHECKED;
/* Writes the adapter in folder as PEFT's adapter_config.json and adapter_model.safetensors. */
Status export_peft(Arena *arena, const char *folder, const char *out) CHECKED;
/* Writes a GGUF file: matrices as type, vectors as F32. tokenizer: the text of a tokenizer.json, or NULL. */
Status export_gguf(Arena *arena, const OwnModel *model, const char *path, ElementType type, int eos,
                   const Json *tokenizer) CHECKED;

/* tokenizer.json from a GGUF file's keys; *out stays NULL, and *why says so, where it holds no byte-level
 * BPE. */
Status import_gguf_tokenizer(Arena *arena, const GgufFile *file, cJSON **out, const char **why) CHECKED;
/* tokenizer_config.json beside it: the begin and the end token and the chat template that the file names. */
cJSON *import_gguf_tokenizer_config(Arena *arena, const GgufFile *file);
/* The other way: GGUF keys of a byte-level BPE tokenizer.json for a vocabulary of `vocab` rows. */
Status export_gguf_tokenizer(Arena *arena, const Json *tokenizer, int vocab, GgufWriter *writer) CHECKED;

/* For the two importers: sorts the tensors by name. */
void import_index(ForeignModel *model);

#endif
