#include "models/parameters.h"

#include <string.h>

#include "base/comm.h"
#include "models/reduce.h"

enum {
  PUT_AT_ONCE = 1 << 20, /* values that are converted and written at once */
  FROZEN_ALIGNMENT = 256 /* bytes */
};

int parameters_add(Parameters *parameters, Arena *arena, const char *name, int rows, int cols, Init init,
                   double std) {
  if (parameters->count == parameters->capacity) {
    int capacity = parameters->capacity ? 2 * parameters->capacity : 64;
    Parameter *list = NEW(arena, Parameter, capacity);
    if (parameters->count) memcpy(list, parameters->list, sizeof *list * (size_t)parameters->count);
    parameters->list = list;
    parameters->capacity = capacity;
  }
  parameters->list[parameters->count] = (Parameter){.name = arena_strdup(arena, name),
                                                    .rank = cols ? 2 : 1,
                                                    .shape = {rows, cols},
                                                    .count = (size_t)rows * (size_t)(cols ? cols : 1),
                                                    .init = init,
                                                    .init_std = std,
                                                    .frozen = parameters->declare_frozen};
  return parameters->count++;
}

static size_t padded(size_t count) {
  return (count + PARAMETER_ALIGNMENT - 1) / PARAMETER_ALIGNMENT * PARAMETER_ALIGNMENT;
}

/* Gives the tensors that are trained their offsets: matrices first. Returns the elements, and those of the
 * matrices. */
static size_t lay_out(Parameters *parameters, size_t *matrices) {
  size_t at = 0;
  for (int rank = 2; rank >= 1; rank--) {
    for (int i = 0; i < parameters->count; i++) {
      Parameter *parameter = &parameters->list[i];
      if (parameter->rank != rank || parameter->frozen) continue;
      parameter->offset = at;
      at += padded(parameter->count);
    }
    if (rank == 2) *matrices = at;
  }
  return at;
}

static size_t trained_elements(const Parameters *parameters) {
  size_t total = 0;
  for (int i = 0; i < parameters->count; i++)
    if (!parameters->list[i].frozen) total += padded(parameters->list[i].count);
  return total;
}

static size_t frozen_bytes(const Parameters *parameters, const Parameter *parameter, DType storage) {
  size_t bytes = parameter->count * dtype_bytes(storage);
  if (parameter->rank == 2)
    bytes =
        (size_t)parameter->shape[0] * weight_row_bytes(parameters->base, storage, (int)parameter->shape[1]);
  return (bytes + FROZEN_ALIGNMENT - 1) / FROZEN_ALIGNMENT * FROZEN_ALIGNMENT;
}

size_t parameters_frozen_bytes(const Parameters *parameters, DType storage) {
  size_t total = 0;
  for (int i = 0; i < parameters->count; i++)
    if (parameters->list[i].frozen) total += frozen_bytes(parameters, &parameters->list[i], storage);
  return total;
}

size_t parameters_bytes(const Parameters *parameters, DType storage, bool trainable) {
  size_t element = dtype_bytes(storage), all = trained_elements(parameters), own = all / (size_t)comm.size;
  size_t weights = all * element + parameters_frozen_bytes(parameters, storage);
  if (!trainable) return weights;
  size_t bytes = weights + all * element + sizeof(float); /* gradients and their norm */
  if (!comm.transport) return bytes + all * (2 + (storage != F32)) * sizeof(float);
  size_t copy = storage == F32 ? 0 : element; /* weights that a shard sends */
  return bytes + own * (3 * sizeof(float) + element + copy);
}

size_t parameters_elements(const Parameters *parameters) {
  size_t total = 0;
  for (int i = 0; i < parameters->count; i++) total += parameters->list[i].count;
  return total;
}

static Status allocate_frozen(Parameters *parameters, const Parameters *lender) {
  DType storage = parameters->backend->storage;
  size_t at = 0;
  for (int i = 0; i < parameters->count; i++) {
    Parameter *parameter = &parameters->list[i];
    if (!parameter->frozen) continue;
    parameter->offset = at;
    at += frozen_bytes(parameters, parameter, storage);
  }
  parameters->frozen_total = at;
  parameters->borrowed = lender != NULL;
  if (lender) {
    if (lender->frozen_total != at || lender->base != parameters->base)
      return fail(FAILED, "models that share a frozen base differ in it; load each with a base of its own");
    parameters->frozen = lender->frozen;
    return OK;
  }
  if (at == 0) return OK;
  TRY(parameters->backend->alloc(parameters->backend, at, "frozen weights", &parameters->frozen));
  parameters->backend->zero(parameters->backend, parameters->frozen, at);
  return OK;
}

Status parameters_allocate(Parameters *parameters, Backend *backend, bool trainable,
                           const Parameters *lender) {
  parameters->backend = backend;
  parameters->trainable = trainable;
  TRY(allocate_frozen(parameters, lender));
  parameters->total = lay_out(parameters, &parameters->decay_total);
  if (trainable && backend->collectives) parameters_plan_shards(parameters);
  bool sharded = parameters->shards.size > 0;
  size_t element = dtype_bytes(backend->storage), total = parameters->total;
  size_t states = (sharded ? parameters->shards.total : total) * sizeof(float);
  TRY(backend->alloc(backend, total * element, "model weights", &parameters->weights));
  backend->zero(backend, parameters->weights, total * element);
  if (backend->storage == F32 && !sharded) parameters->master = parameters->weights;
  if (!trainable) return OK;
  TRY(backend->alloc(backend, total * element, "gradients", &parameters->grads));
  TRY(backend->alloc(backend, states, "optimizer states", (void **)&parameters->m));
  TRY(backend->alloc(backend, states, "optimizer states", (void **)&parameters->v));
  TRY(backend->alloc(backend, sizeof(float), "the gradient norm", (void **)&parameters->norm));
  if (sharded) {
    TRY(parameters_allocate_shards(parameters));
  } else if (backend->storage != F32) {
    TRY(backend->alloc(backend, states, "fp32 master weights", (void **)&parameters->master));
    backend->zero(backend, parameters->master, states);
  }
  backend->zero(backend, parameters->grads, total * element);
  backend->zero(backend, parameters->m, states);
  backend->zero(backend, parameters->v, states);
  return OK;
}

void parameters_free(Parameters *parameters) {
  Backend *backend = parameters->backend;
  if (!backend) return;
  bool own_master = (void *)parameters->master != parameters->weights;
  parameters_free_shards(parameters);
  void *memory[] = {parameters->borrowed ? NULL : parameters->frozen,
                    parameters->weights,
                    parameters->grads,
                    parameters->m,
                    parameters->v,
                    parameters->norm,
                    own_master ? parameters->master : NULL};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    if (memory[i]) backend->free(backend, memory[i]);
  *parameters =
      (Parameters){.list = parameters->list, .count = parameters->count, .capacity = parameters->capacity};
}

void *parameters_weight(const Parameters *parameters, int index) {
  if (index < 0) return NULL;
  const Parameter *parameter = &parameters->list[index];
  if (parameter->frozen) return (char *)parameters->frozen + parameter->offset;
  return (char *)parameters->weights + parameter->offset * dtype_bytes(parameters->backend->storage);
}

WeightType parameters_weight_type(const Parameters *parameters, int index) {
  if (index < 0 || !parameters->list[index].frozen || parameters->list[index].rank < 2) return WEIGHT_NATIVE;
  bool native = parameters->base == WEIGHT_BF16 && parameters->backend->storage == BF16;
  return native ? WEIGHT_NATIVE : parameters->base;
}

void *parameters_grad(const Parameters *parameters, int index) {
  if (index < 0 || parameters->list[index].frozen) return NULL;
  return (char *)parameters->grads +
         parameters->list[index].offset * dtype_bytes(parameters->backend->storage);
}

void parameters_zero_grads(Parameters *parameters) {
  Backend *backend = parameters->backend;
  backend->zero(backend, parameters->grads, parameters->total * dtype_bytes(backend->storage));
}

/* Host values of another type than the device's storage. */
static Status put_converted(Backend *backend, void *to, const void *values, DType type, size_t count) {
  size_t bytes = count * dtype_bytes(type);
  void *staging;
  TRY(backend->alloc(backend, bytes, "staging of weights", &staging));
  backend->upload(backend, staging, values, bytes);
  backend->convert(backend, to, backend->storage, staging, type, count);
  Status status = backend->synchronize(backend);
  backend->free(backend, staging);
  return status;
}

/* Rows of a tensor that stand one behind the other; of a vector, its elements. */
typedef struct Rows {
  int64_t first, count;
} Rows;

static size_t row_elements(const Parameter *parameter) {
  return parameter->rank == 2 ? (size_t)parameter->shape[1] : 1;
}

static Status put_reduced(Parameters *parameters, const Parameter *parameter, const char *path,
                          const void *values, DType type, Rows rows) {
  int index = (int)(parameter - parameters->list), columns = (int)parameter->shape[1];
  WeightType base = parameters_weight_type(parameters, index);
  size_t before = (size_t)rows.first * weight_row_bytes(base, parameters->backend->storage, columns);
  if (reduce_matrix(parameters->backend, (char *)parameters_weight(parameters, index) + before, base, values,
                    type, (int)rows.count, columns))
    return OK;
  return fail(INVALID,
              "%s: tensor \"%s\" has values that int8 cannot hold; set adapter.base to native or bf16", path,
              parameter->name);
}

/* Writes host values (F32 or BF16) over rows of one tensor's weights, and master where that has all of it.
 * path: where they are from */
static Status put_rows(Parameters *parameters, const Parameter *parameter, const char *path,
                       const void *values, DType type, Rows rows) {
  Backend *backend = parameters->backend;
  int index = (int)(parameter - parameters->list);
  size_t before = (size_t)rows.first * row_elements(parameter);
  size_t count = (size_t)rows.count * row_elements(parameter), bytes = count * dtype_bytes(type);
  if (parameters_weight_type(parameters, index) != WEIGHT_NATIVE)
    return put_reduced(parameters, parameter, path, values, type, rows);
  void *weights = (char *)parameters_weight(parameters, index) + before * dtype_bytes(backend->storage);
  bool has_master = parameters->master && !parameter->frozen && !parameters->shards.size;
  float *master = has_master ? parameters->master + parameter->offset + before : NULL;
  if (backend->storage == type) {
    backend->upload(backend, weights, values, bytes);
    if (has_master && type != F32) /* else weights and master are one */
      backend->convert(backend, master, F32, weights, type, count);
    return OK;
  }
  if (has_master && type == F32) {
    backend->upload(backend, master, values, bytes);
    backend->convert(backend, weights, backend->storage, master, F32, count);
    return OK;
  }
  return put_converted(backend, weights, values, type, count);
}

/* Host values (F32 or BF16) of a tensor. */
typedef struct Source {
  const char *path; /* where they are from */
  const void *values;
  DType type;
  const FileMap *map; /* that they lie in, or NULL: pages need not stay once they were read */
} Source;

/* Writes a tensor, some rows at a time. */
static Status put(Parameters *parameters, const Parameter *parameter, const Source *from) {
  int64_t step = (int64_t)(PUT_AT_ONCE / row_elements(parameter)) + 1;
  size_t row_bytes = row_elements(parameter) * dtype_bytes(from->type);
  for (int64_t first = 0; first < parameter->shape[0]; first += step) {
    int64_t count = parameter->shape[0] - first < step ? parameter->shape[0] - first : step;
    const char *values = (const char *)from->values + (size_t)first * row_bytes;
    TRY(put_rows(parameters, parameter, from->path, values, from->type, (Rows){first, count}));
    if (from->map) file_release(from->map, values, (size_t)count * row_bytes);
  }
  if (parameters->shards.size && !parameter->frozen)
    parameters_put_shard(parameters, parameters->master, parameter, from->values, from->type);
  return OK;
}

Status parameters_init(Parameters *parameters, const char *prefix, uint64_t seed) {
  Arena arena = {0};
  Status status = OK;
  for (int i = 0; i < parameters->count && status == OK; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (strncmp(parameter->name, prefix, strlen(prefix)) != 0) continue;
    if (parameter->frozen) continue;
    ArenaMark mark = arena_mark(&arena);
    float *values = NEW(&arena, float, parameter->count);
    RandomKey key = {seed, RANDOM_INIT, (uint32_t)i};
#pragma omp parallel for
    for (size_t j = 0; j < parameter->count; j++) {
      if (parameter->init == INIT_ONES) values[j] = 1;
      if (parameter->init == INIT_NORMAL)
        values[j] = (float)(parameter->init_std * random_normal(key, (uint32_t)j, (uint32_t)(j >> 32)));
    }
    status = put(parameters, parameter, &(Source){.path = "random numbers", .values = values, .type = F32});
    arena_reset(&arena, mark);
  }
  arena_free(&arena);
  return status;
}

static Status check_shape(const Checkpoint *checkpoint, const HostTensor *tensor, const Parameter *parameter,
                          bool bf16) {
  bool type = tensor->type == F32 || (bf16 && tensor->type == BF16);
  bool same = type && tensor->rank == parameter->rank;
  for (int d = 0; same && d < parameter->rank; d++) same = tensor->shape[d] == parameter->shape[d];
  if (same) return OK;
  return fail(INVALID,
              "%s: tensor \"%s\" has another shape or type than the model's (%lld x %lld, fp32 or bf16); "
              "use the model description that it was made with",
              checkpoint->path, parameter->name, (long long)parameter->shape[0],
              (long long)(parameter->rank == 2 ? parameter->shape[1] : 1));
}

Status parameters_load(Parameters *parameters, const Checkpoint *checkpoint, bool frozen,
                       const char *optional_prefix) {
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (parameter->frozen != frozen) continue;
    const HostTensor *tensor = checkpoint_tensor(checkpoint, parameter->name);
    if (!tensor) {
      bool optional =
          optional_prefix && strncmp(parameter->name, optional_prefix, strlen(optional_prefix)) == 0;
      if (optional) continue;
      return fail(INVALID, "%s: has no tensor \"%s\"; use the model description that it was made with",
                  checkpoint->path, parameter->name);
    }
    TRY(check_shape(checkpoint, tensor, parameter, true));
    TRY(put(parameters, parameter,
            &(Source){checkpoint->path, tensor->data, tensor->type, &checkpoint->map}));
  }
  return OK;
}

static const char *const moment_prefix[] = {"", "adam.m/", "adam.v/"}; /* of the names in a checkpoint */

static Status load_moments(Parameters *parameters, const Checkpoint *checkpoint, Arena *scratch) {
  float *const moments[] = {NULL, parameters->m, parameters->v};
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    for (int k = 1; k <= 2 && !parameter->frozen; k++) {
      const char *name = arena_print(scratch, "%s%s", moment_prefix[k], parameter->name);
      const HostTensor *tensor = checkpoint_tensor(checkpoint, name);
      if (!tensor)
        return fail(FAILED, "%s: has no tensor \"%s\"; remove the file to start the stage again",
                    checkpoint->path, name);
      TRY(check_shape(checkpoint, tensor, parameter, false));
      if (parameters->shards.size)
        parameters_put_shard(parameters, moments[k], parameter, tensor->data, F32);
      else
        parameters->backend->upload(parameters->backend, moments[k] + parameter->offset, tensor->data,
                                    parameter->count * sizeof(float));
    }
  }
  return OK;
}

Status parameters_load_optimizer(Parameters *parameters, const Checkpoint *checkpoint) {
  Arena scratch = {0};
  Status status = load_moments(parameters, checkpoint, &scratch);
  arena_free(&scratch);
  return status;
}

/* Adds host tensors of what is not frozen, whose fp32 values stand in values. */
static void list_tensors(const Parameters *parameters, Arena *arena, const char *prefix, const float *values,
                         HostTensor *tensors, int *count) {
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (parameter->frozen) continue;
    tensors[(*count)++] = (HostTensor){.name = arena_print(arena, "%s%s", prefix, parameter->name),
                                       .type = F32,
                                       .rank = parameter->rank,
                                       .shape = {parameter->shape[0], parameter->shape[1]},
                                       .data = values + parameter->offset};
  }
}

/* count weights of the storage type as fp32, through a copy on the device where the types differ. */
static Status download_weights(const Parameters *parameters, float *host, const void *weights, size_t count) {
  Backend *backend = parameters->backend;
  if (backend->storage == F32) return backend->download(backend, host, weights, count * sizeof(float));
  void *staging;
  TRY(backend->alloc(backend, count * sizeof(float), "staging of weights", &staging));
  backend->convert(backend, staging, F32, weights, backend->storage, count);
  Status status = backend->download(backend, host, staging, count * sizeof(float));
  backend->free(backend, staging);
  return status;
}

Status parameters_download(const Parameters *parameters, Arena *arena, bool with_optimizer,
                           HostTensor **tensors, int *count) {
  Backend *backend = parameters->backend;
  const float *source[] = {parameters->master, parameters->m, parameters->v};
  int sets = with_optimizer ? 3 : 1;
  *tensors = NEW(arena, HostTensor, sets * parameters->count);
  *count = 0;
  for (int set = 0; set < sets; set++) {
    if (source[set] && backend->host_memory && !parameters->shards.size) { /* written from where it stands */
      list_tensors(parameters, arena, moment_prefix[set], source[set], *tensors, count);
      continue;
    }
    float *host = parameters->shards.size && !comm_is_first() ? NULL : NEW(arena, float, parameters->total);
    if (parameters->shards.size)
      TRY(parameters_download_shard(parameters, host, source[set]));
    else if (source[set])
      TRY(backend->download(backend, host, source[set], parameters->total * sizeof(float)));
    else
      TRY(download_weights(parameters, host, parameters->weights, parameters->total));
    if (host) list_tensors(parameters, arena, moment_prefix[set], host, *tensors, count);
  }
  return OK;
}
