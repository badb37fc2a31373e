/* The parameters of a model as one arena: weights, gradients and optimizer states each stand in one
 * allocation, so that the gradient norm and AdamW are one launch over everything, and a checkpoint is one
 * download. Parameters that decay come first. Frozen parameters (the base model under an adapter) stand in an
 * allocation of their own that several models may share; they have no gradients and are in no checkpoint. */
#ifndef POPALM_MODELS_PARAMETERS_H
#define POPALM_MODELS_PARAMETERS_H

#include <stdbool.h>

#include "backend.h"
#include "base/arena.h"
#include "checkpoint.h"
#include "models/shards.h"

enum { PARAMETER_ALIGNMENT = 64 }; /* elements: every tensor starts at a multiple */

typedef enum Init { INIT_ZEROS, INIT_ONES, INIT_NORMAL } Init;

typedef struct Parameter {
  const char *name;
  int rank;
  int64_t shape[2];
  size_t offset; /* elements, in the arenas below; of a frozen one bytes, in frozen */
  size_t count;  /* elements */
  Init init;
  double init_std;
  bool frozen;
} Parameter;

typedef struct Parameters {
  Backend *backend;
  Parameter *list;
  int count, capacity;
  size_t total, decay_total; /* elements with padding; [0, decay_total) are matrices, which decay */
  size_t frozen_total;       /* bytes of the frozen ones, in their allocation */
  bool trainable;
  bool declare_frozen; /* what parameters_add declares is frozen */
  WeightType base;     /* what frozen matrices stand in */
  bool borrowed;       /* frozen belongs to another model, which must live longer */
  void *frozen;        /* matrices as base says, vectors in the storage type */
  void *weights;       /* storage type */
  float *master;       /* fp32; the same memory as weights where the storage type is fp32 */
  float *m, *v;        /* Adam's moments */
  void *grads;         /* storage type */
  float *norm;         /* [1] gradient norm of the last step, device */
  Shards shards;       /* with Backend.collectives: master, m and v are [shards.total], this rank's slices */
} Parameters;

/* Declares a tensor before parameters_allocate (cols 0: a vector, which does not decay). Returns its index.
 */
int parameters_add(Parameters *parameters, Arena *arena, const char *name, int rows, int cols, Init init,
                   double std);

/* Gives every tensor its place and allocates; without trainable only the weights. lender: a model with the
 * same frozen tensors, which are then used in place, or NULL. */
Status parameters_allocate(Parameters *parameters, Backend *backend, bool trainable,
                           const Parameters *lender) CHECKED;
/* Device bytes that parameters_allocate takes, of one rank. */
size_t parameters_bytes(const Parameters *parameters, DType storage, bool trainable);
/* Those of the frozen tensors among them. */
size_t parameters_frozen_bytes(const Parameters *parameters, DType storage);
/* Elements without padding: the model's size. */
size_t parameters_elements(const Parameters *parameters);
void parameters_free(Parameters *parameters);

/* Device addresses of tensor `index`; NULL for index -1 (a tensor that the model does not have). Frozen
 * tensors have no gradient: NULL. */
void *parameters_weight(const Parameters *parameters, int index);
/* What that tensor stands in: the base's type of a frozen matrix. */
WeightType parameters_weight_type(const Parameters *parameters, int index);
void *parameters_grad(const Parameters *parameters, int index);

/* Random values for the tensors whose name starts with prefix ("": all) and that are not frozen. */
Status parameters_init(Parameters *parameters, const char *prefix, uint64_t seed) CHECKED;
void parameters_zero_grads(Parameters *parameters);

/* What one process updates: all, or its shard. */
typedef struct ParameterSlices {
  const void *grads; /* [total] storage type */
  void *copy;        /* [total] storage type, where AdamW writes the weights that are computed with */
  size_t total, decay_total;
} ParameterSlices;
ParameterSlices parameters_own(const Parameters *parameters);
/* One optimizer step of a model in shards; without shards none of these does anything. layer_done comes from
 * the backward pass, once a layer in descending order and one backward pass a step; reduce completes what it
 * started: grads of parameters_own. gather starts to copy the updated slices into all ranks' weights; ready waits
 * for those of a layer and of all before it (BUCKET_AT_END: all outside the layers but the vocabulary,
 * BUCKET_AT_ONCE: everything): a forward pass calls it, and everything else that reads weights comes after one. */
void parameters_layer_done(Parameters *parameters, int layer);
void parameters_reduce(Parameters *parameters);
void parameters_gather(Parameters *parameters);
void parameters_ready(const Parameters *parameters, int layer);
/* The norm of all gradients, over the ranks' slices, into norm. */
void parameters_norm(Parameters *parameters);

/* What parameters.c does of a model in shards (parameters_shards.c). put: a tensor's part of an array of the shard,
 * from host values in fp32, or, of another type, from the weights, which have them by then. download: the whole
 * array at rank 0, whose host is [total]; NULL at the others. */
void parameters_plan_shards(Parameters *parameters);
Status parameters_allocate_shards(Parameters *parameters) CHECKED;
void parameters_free_shards(Parameters *parameters);
void parameters_put_shard(Parameters *parameters, float *shard, const Parameter *parameter, const void *values,
                          DType type);
Status parameters_download_shard(const Parameters *parameters, float *host, const float *shard) CHECKED;
/* The frozen tensors, or the others, from a checkpoint by name; tensors whose name starts with
 * optional_prefix (NULL: none) may be missing and then keep their value. Wrong shapes and other missing
 * tensors are errors. */
Status parameters_load(Parameters *parameters, const Checkpoint *checkpoint, bool frozen,
                       const char *optional_prefix) CHECKED;
/* What is not frozen as fp32 tensors for checkpoint_write, which are copies unless the device's memory is the
 * host's: valid until the weights change; with_optimizer adds "adam.m/<name>" and "adam.v/<name>". Of a model in
 * shards all ranks must call it, and rank 0 alone gets tensors: the same as without shards. */
Status parameters_download(const Parameters *parameters, Arena *arena, bool with_optimizer,
                           HostTensor **tensors, int *count) CHECKED;
/* Adam's moments from a checkpoint written with_optimizer. */
Status parameters_load_optimizer(Parameters *parameters, const Checkpoint *checkpoint) CHECKED;

#endif
