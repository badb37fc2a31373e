/* Parameters whose optimizer states are in shards (models/shards.h). */
#include <stdio.h>
#include <string.h>

#include "base/comm.h"
#include "models/parameters.h"

enum { LEAST_BUCKET = 65536 }; /* elements: below, starting a collective costs more than it moves */

/* When a tensor's gradient is complete. All but the matrices of the layers are few, or get the last of it
 * from the embedding. */
static int complete_after(const Parameter *parameter) {
  int layer;
  if (strcmp(parameter->name, "vocab.weight") == 0) return BUCKET_AT_ONCE;
  return sscanf(parameter->name, "layers.%d.", &layer) == 1 ? layer : BUCKET_AT_END;
}

void parameters_plan_shards(Parameters *parameters) {
  const Collectives *collectives = parameters->backend->collectives;
  size_t unit = shards_unit(collectives->size), end = (parameters->total + unit - 1) / unit * unit;
  Stretch *stretch = NEW(&parameters->shards.memory, Stretch, parameters->count + 1);
  int stretches = 0, next = -1;
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (parameter->frozen || parameter->rank != 2) continue;
    if (stretches) stretch[stretches - 1].end = parameter->offset;
    next = complete_after(parameter);
    stretch[stretches++].layer = next;
  }
  if (stretches) stretch[stretches - 1].end = parameters->decay_total;
  stretch[stretches++] = (Stretch){.end = end, .layer = BUCKET_AT_END}; /* vectors, and what fills the unit */
  parameters->total = end;
  shards_plan(&parameters->shards, stretch, stretches, end, parameters->decay_total, collectives->size,
              collectives->rank, LEAST_BUCKET);
}

Status parameters_allocate_shards(Parameters *parameters) {
  Backend *backend = parameters->backend;
  Shards *shards = &parameters->shards;
  size_t element = dtype_bytes(backend->storage), fp32 = shards->total * sizeof(float);
  TRY(backend->alloc(backend, shards->total * element, "gradients of a shard", &shards->grads));
  TRY(backend->alloc(backend, sizeof(float) * (1 + (size_t)shards->size), "gradient norms",
                     (void **)&shards->norms));
  TRY(backend->alloc(backend, fp32, "fp32 master weights", (void **)&parameters->master));
  backend->zero(backend, parameters->master, fp32);
  shards->copy = parameters->master;
  if (backend->storage == F32) return OK;
  TRY(backend->alloc(backend, shards->total * element, "weights of a shard", &shards->copy));
  backend->zero(backend, shards->copy, shards->total * element);
  return OK;
}

void parameters_free_shards(Parameters *parameters) {
  Shards *shards = &parameters->shards;
  Backend *backend = parameters->backend;
  parameters_ready(parameters, BUCKET_AT_ONCE);
  void *memory[] = {shards->grads, shards->norms, shards->copy == parameters->master ? NULL : shards->copy};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    if (memory[i]) backend->free(backend, memory[i]);
  arena_free(&shards->memory);
}

/* ---- values in and out ---- */

void parameters_put_shard(Parameters *parameters, float *shard, const Parameter *parameter,
                          const void *values, DType type) {
  Backend *backend = parameters->backend;
  size_t element = dtype_bytes(backend->storage);
  for (int b = 0; b < parameters->shards.count; b++) {
    const Bucket *bucket = &parameters->shards.bucket[b];
    size_t begin, end, first = parameter->offset, last = first + parameter->count;
    shards_slice(&parameters->shards, bucket, &begin, &end);
    float *to = shard + bucket->at + (first > begin ? first - begin : 0);
    if (first < begin) first = begin;
    if (last > end) last = end;
    if (first >= last) continue;
    if (type == F32)
      backend->upload(backend, to, (const float *)values + (first - parameter->offset),
                      (last - first) * sizeof(float));
    else /* exact: the weights have at least as many bits */
      backend->convert(backend, to, F32, (char *)parameters->weights + first * element, backend->storage,
                       last - first);
  }
}

/* From the ranks' shards, one after the other, to the order of the arena. */
static void reorder(const Parameters *parameters, const float *all, float *host) {
  Shards view = parameters->shards;
  for (view.rank = 0; view.rank < view.size; view.rank++)
    for (int b = 0; b < view.count; b++) {
      size_t begin, end;
      shards_slice(&view, &view.bucket[b], &begin, &end);
      memcpy(host + begin, all + view.total * (size_t)view.rank + view.bucket[b].at,
             (end - begin) * sizeof *host);
    }
}

Status parameters_download_shard(const Parameters *parameters, float *host, const float *shard) {
  Backend *backend = parameters->backend;
  const Shards *shards = &parameters->shards;
  Arena scratch = {0};
  float *mine = NEW(&scratch, float, shards->total), *all = NULL;
  if (host) all = NEW(&scratch, float, parameters->total);
  Status status = backend->download(backend, mine, shard, shards->total * sizeof *mine);
  if (status == OK) comm_collect(all, mine, shards->total * sizeof *mine);
  if (status == OK && host) reorder(parameters, all, host);
  arena_free(&scratch);
  return status;
}

/* ---- a step ---- */

ParameterSlices parameters_own(const Parameters *parameters) {
  const Shards *shards = &parameters->shards;
  if (shards->size) return (ParameterSlices){shards->grads, shards->copy, shards->total, shards->decay_total};
  return (ParameterSlices){parameters->grads, parameters->weights, parameters->total,
                           parameters->decay_total};
}

/* Bytes that a rank sends of a bucket in either direction: every slice but its own. */
static double sent(const Shards *shards, size_t bytes) {
  return (double)bytes * (shards->size - 1) / shards->size;
}

static void start(Parameters *parameters, Bucket *bucket) {
  Backend *backend = parameters->backend;
  size_t element = dtype_bytes(backend->storage), length = bucket->end - bucket->begin;
  parameters->shards.reduced = backend->collectives->reduce_scatter(
      backend, (char *)parameters->grads + bucket->begin * element,
      (char *)parameters->shards.grads + bucket->at * element, length / (size_t)parameters->shards.size);
  bucket->started = true;
  comm.moved += sent(&parameters->shards, length * element);
}

void parameters_layer_done(Parameters *parameters, int layer) {
  Shards *shards = &parameters->shards;
  if (!shards->size) return;
  for (int b = shards->count - 1; b >= 0; b--) /* as they become complete */
    if (!shards->bucket[b].started && shards->bucket[b].layer >= layer) start(parameters, &shards->bucket[b]);
  parameters->backend->collectives->progress(parameters->backend);
}

void parameters_reduce(Parameters *parameters) {
  Shards *shards = &parameters->shards;
  Backend *backend = parameters->backend;
  if (!shards->size) return;
  parameters_layer_done(parameters, BUCKET_AT_END);
  backend->collectives->wait(backend, shards->reduced);
  for (int b = 0; b < shards->count; b++) shards->bucket[b].started = false;
}

void parameters_norm(Parameters *parameters) {
  Shards *shards = &parameters->shards;
  Backend *backend = parameters->backend;
  ParameterSlices own = parameters_own(parameters);
  float *norm = shards->size ? shards->norms : parameters->norm;
  backend->grad_norm(backend, &(GradNorm){.grad = own.grads, .count = own.total, .norm = norm});
  if (!shards->size) return;
  int64_t ticket = backend->collectives->all_gather(backend, norm, shards->norms + 1, 1, F32);
  backend->collectives->wait(backend, ticket);
  backend->grad_norm(backend, &(GradNorm){.grad = own.grads,
                                          .others = shards->norms + 1,
                                          .other_count = shards->size,
                                          .norm = parameters->norm});
}

static void gather(Parameters *parameters, Bucket *bucket) {
  Backend *backend = parameters->backend;
  const Shards *shards = &parameters->shards;
  size_t element = dtype_bytes(backend->storage), length = bucket->end - bucket->begin;
  bucket->ticket = backend->collectives->all_gather(backend, (char *)shards->copy + bucket->at * element,
                                                    (char *)parameters->weights + bucket->begin * element,
                                                    length / (size_t)shards->size, backend->storage);
  comm.moved += sent(shards, length * element);
}

/* In the order in which the forward pass needs them. */
void parameters_gather(Parameters *parameters) {
  Shards *shards = &parameters->shards;
  for (int outside = 1; outside >= 0; outside--)
    for (int b = 0; b < shards->count; b++)
      if ((shards->bucket[b].layer == BUCKET_AT_END) == outside) gather(parameters, &shards->bucket[b]);
}

void parameters_ready(const Parameters *parameters, int layer) {
  const Shards *shards = &parameters->shards;
  Backend *backend = parameters->backend;
  int64_t last = 0;
  for (int b = 0; b < shards->count; b++) {
    Bucket *bucket = &shards->bucket[b];
    if (!bucket->ticket || bucket->layer > layer) continue;
    if (bucket->ticket > last) last = bucket->ticket;
    bucket->ticket = 0;
  }
  if (last) backend->collectives->wait(backend, last);
}
