/* Families of models as other tools describe and lay them out. One row a family: its config.json and GGUF
 * keys, its tensors' names there, and how each tensor lies in ours. Import and export both read these tables.
 */
#ifndef POPALM_MODELS_FAMILY_H
#define POPALM_MODELS_FAMILY_H

#include "gguf.h"
#include "models/config.h"

typedef struct Family Family;

typedef enum Outside { OUTSIDE_HF, OUTSIDE_GGUF } Outside;

/* A tensor of the outside: some rows of one of our parameters. */
typedef struct Slice {
  const char *name;      /* outside, "model.layers.0.self_attn.k_proj.weight" */
  const char *parameter; /* ours, "layers.0.attention.qkv.weight" */
  int64_t first, rows;   /* rows of ours, or values of a vector */
  int64_t cols;          /* 0: a vector */
  bool transposed;       /* outside it is [cols, rows], as GPT-2's Conv1D */
  int turned; /* d: row i of a head of d and row i + d/2 stand outside as rows 2i and 2i + 1; 0: not */
} Slice;

const char *family_name(const Family *family);
/* The prefix of names in a whole model, which files of the bare trunk leave out: "model.". */
const char *family_prefix(const Family *family);

/* Reads config.json. context: the longest sequence that shall be possible, 0: the model's own. What the
 * decoder does not do is refused by name. */
Status family_read_hf(Arena *arena, const Json *json, int context, const Family **family,
                      DecoderConfig *out) CHECKED;
Status family_read_gguf(Arena *arena, const GgufFile *file, int context, const Family **family,
                        DecoderConfig *out) CHECKED;

/* The family that a decoder of this form belongs to, for export; INVALID if there is none. */
Status family_of(const DecoderConfig *config, const Family **out) CHECKED;
/* config.json without what a tokenizer knows. */
cJSON *family_hf_config(const Family *family, const DecoderConfig *config);
void family_gguf_keys(Arena *arena, const Family *family, const DecoderConfig *config, GgufWriter *writer);

/* Every tensor that a model of this form has outside. */
void family_slices(Arena *arena, const Family *family, const DecoderConfig *config, Outside outside,
                   Slice **out, int *count);
/* Whether a tensor that no slice names is no weight: masks and tables that older files hold. */
bool family_ignores(const char *name);

#endif
