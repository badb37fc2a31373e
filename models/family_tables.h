/* The rows of family.c's tables, and what reading config.json (family_hf.c) and GGUF keys (family_gguf.c)
 * share. */
#ifndef POPALM_MODELS_FAMILY_TABLES_H
#define POPALM_MODELS_FAMILY_TABLES_H

#include "models/family.h"

typedef enum Part { WHOLE, QUERY, KEY, VALUE, GATE, UP } Part;

/* "%" in a name stands for the number of the layer. */
typedef struct TensorRow {
  const char *parameter, *hf, *gguf;
  Part part;       /* which rows of ours */
  bool transposed; /* in a Hugging Face file */
} TensorRow;

/* A number of the description. Where it is missing: fallback, or from_hidden times the hidden size, or as
 * many as heads, or the hidden size divided by the heads, or it must be there. */
typedef enum Missing { REQUIRED, FALLBACK, FROM_HIDDEN, AS_HEADS, HIDDEN_BY_HEADS } Missing;

typedef struct NumberRow {
  const char *hf, *gguf; /* gguf without "<architecture>."; NULL: read from a tensor's shape */
  size_t offset;
  bool real; /* float, else int */
  Missing missing;
  double fallback;
} NumberRow;

/* Settings of config.json that must have one of these values (as JSON) where they stand. */
typedef struct Rule {
  const char *key, *values[3];
} Rule;

struct Family {
  const char *model_type;   /* config.json's */
  const char *architecture; /* config.json's "architectures" */
  const char *gguf;         /* general.architecture */
  const char *prefix;
  const TensorRow *tensors;
  const NumberRow *numbers;
  const Rule *rules;
  bool biases;        /* attention_bias and mlp_bias say whether there are biases */
  bool window_off;    /* "sliding_window" holds only with "use_sliding_window", which a rule refuses */
  bool gguf_turned;   /* GGUF stores query and key rows for the other way of pairing them in rope */
  bool tied;          /* where config.json does not say */
  DecoderConfig form; /* what all models of the family have in common */
};

extern const Family families[];
extern const int family_count;

/* Number rows end where both hf and missing are zero. */
static inline bool number_row(const NumberRow *row) { return row->hf || row->missing != REQUIRED; }

/* Puts a value where the row says; where: "file:line:column" or "file: offset n". */
Status family_store_number(const NumberRow *row, const char *where, const char *key, double value,
                           DecoderConfig *out) CHECKED;
void family_fill_missing(const NumberRow *row, DecoderConfig *out);
/* The context asked for (0: the model's own); a window that is shorter would change what the model computes.
 */
Status family_limit_context(const char *path, int context, double window, DecoderConfig *out) CHECKED;

#endif
