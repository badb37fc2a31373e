#include "models/adapter.h"

#include <math.h>
#include <string.h>

static const double prefix_std = 1.0;

/* Where a target's output stands in its product's. */
typedef struct Part {
  Product product;
  int in, width;  /* of the product */
  int first, out; /* of the part */
} Part;

static Part part_of(const DecoderConfig *c, LoraTarget target) {
  int H = c->hidden, d = c->head_dim, q = c->heads * d, kv = c->kv_heads * d, qkv = q + 2 * kv;
  bool gated = c->activation == ACTIVATION_SWIGLU;
  int up = gated ? 2 * c->mlp : c->mlp;
  switch (target) {
    case LORA_QKV:
      return (Part){PRODUCT_QKV, H, qkv, 0, qkv};
    case LORA_Q:
      return (Part){PRODUCT_QKV, H, qkv, 0, q};
    case LORA_K:
      return (Part){PRODUCT_QKV, H, qkv, q, kv};
    case LORA_V:
      return (Part){PRODUCT_QKV, H, qkv, q + kv, kv};
    case LORA_PROJ:
      return (Part){PRODUCT_PROJ, q, H, 0, H};
    case LORA_GATE:
      return (Part){PRODUCT_UP, H, up, 0, c->mlp};
    case LORA_UP:
      return (Part){PRODUCT_UP, H, up, gated ? c->mlp : 0, c->mlp};
    default:
      return (Part){PRODUCT_DOWN, c->mlp, H, 0, H};
  }
}

void adapter_declare(Decoder *decoder, Arena *arena, int layer) {
  const DecoderConfig *c = &decoder->config;
  DecoderLayer *l = &decoder->layer[layer];
  l->prefix = -1;
  if (c->prefix_tokens)
    l->prefix = parameters_add(decoder->parameters, arena, arena_print(arena, "layers.%d.prefix", layer),
                               c->prefix_tokens, 2 * c->kv_heads * c->head_dim, INIT_NORMAL, prefix_std);
  for (int t = 0; t < LORA_TARGETS; t++) {
    l->lora_a[t] = l->lora_b[t] = -1;
    if (c->lora.rank == 0 || !c->lora.target[t]) continue;
    Part part = part_of(c, (LoraTarget)t);
    const char *name = arena_print(arena, "layers.%d.lora.%s", layer, lora_target_names[t]);
    /* The variance of the reference implementation's uniform numbers, 1 / (3 in). */
    l->lora_a[t] = parameters_add(decoder->parameters, arena, arena_print(arena, "%s.a", name), c->lora.rank,
                                  part.in, INIT_NORMAL, sqrt(1.0 / (3.0 * part.in)));
    l->lora_b[t] = parameters_add(decoder->parameters, arena, arena_print(arena, "%s.b", name), part.out,
                                  c->lora.rank, INIT_ZEROS, 0);
  }
}

static char *columns_from(const Decoder *decoder, const void *matrix, int first) {
  return (char *)matrix + (size_t)first * dtype_bytes(decoder->parameters->backend->storage);
}

int adapter_widest(const DecoderConfig *c) {
  int widest = 0;
  for (int t = 0; t < LORA_TARGETS; t++) {
    int in = part_of(c, (LoraTarget)t).in;
    if (c->lora.target[t] && in > widest) widest = in;
  }
  return widest;
}

/* y (+)= x with dropout: the same mask in both directions, another for every target of every layer. */
static void drop(const Decoder *decoder, const DecoderDropout *dropout, int layer, int target, const void *x,
                 void *y, int rows, int cols, bool accumulate) {
  Backend *backend = decoder->parameters->backend;
  backend->dropout(backend, &(Dropout){.x = x,
                                       .y = y,
                                       .id = dropout->ids,
                                       .key = dropout->key,
                                       .site = (uint32_t)(layer * LORA_TARGETS + target),
                                       .rate = decoder->config.lora.dropout,
                                       .rows = rows,
                                       .cols = cols,
                                       .accumulate = accumulate});
}

void adapter_forward(const Decoder *decoder, int layer, Product product, const LayerActivations *a,
                     const DecoderDropout *dropout, const void *x, void *y, int rows) {
  Backend *backend = decoder->parameters->backend;
  const LoraConfig *lora = &decoder->config.lora;
  for (int t = 0; lora->rank && t < LORA_TARGETS; t++) {
    Part part = part_of(&decoder->config, (LoraTarget)t);
    if (!lora->target[t] || part.product != product) continue;
    bool drops = dropout && a->dropped;
    if (drops) drop(decoder, dropout, layer, t, x, a->dropped, rows, part.in, false);
    backend->linear(
        backend, &(Linear){.x = drops ? a->dropped : x,
                           .weight = parameters_weight(decoder->parameters, decoder->layer[layer].lora_a[t]),
                           .y = a->low[t],
                           .rows = rows,
                           .in = part.in,
                           .out = lora->rank});
    backend->linear(
        backend, &(Linear){.x = a->low[t],
                           .weight = parameters_weight(decoder->parameters, decoder->layer[layer].lora_b[t]),
                           .y = columns_from(decoder, y, part.first),
                           .y_stride = part.width,
                           .rows = rows,
                           .in = lora->rank,
                           .out = part.out,
                           .scale = lora->alpha / (float)lora->rank,
                           .accumulate = true});
  }
}

/* dA += dlow^T x and dx += dlow A; with dropout x is dropped again first, and what comes back too. */
static void backward_of_a(const Decoder *decoder, int layer, int target, const LayerActivations *a,
                          const DecoderDropout *dropout, const void *x, const void *dlow, void *dx, int rows,
                          int in) {
  Backend *backend = decoder->parameters->backend;
  int index = decoder->layer[layer].lora_a[target];
  LinearBackward op = {.x = x,
                       .weight = parameters_weight(decoder->parameters, index),
                       .dy = dlow,
                       .dx = dx,
                       .dweight = parameters_grad(decoder->parameters, index),
                       .rows = rows,
                       .in = in,
                       .out = decoder->config.lora.rank,
                       .accumulate = true};
  if (!dropout || !a->dropped) {
    backend->linear_backward(backend, &op);
    return;
  }
  drop(decoder, dropout, layer, target, x, a->dropped, rows, in, false);
  op.x = a->dropped;
  op.dx = NULL;
  backend->linear_backward(backend, &op);
  op.dweight = NULL;
  op.dx = a->dropped;
  op.accumulate = false;
  backend->linear_backward(backend, &op);
  drop(decoder, dropout, layer, target, a->dropped, dx, rows, in, true);
}

void adapter_backward(const Decoder *decoder, int layer, Product product, const LayerActivations *a,
                      const DecoderDropout *dropout, const void *x, const void *dy, void *dx, void *dlow,
                      int rows) {
  Backend *backend = decoder->parameters->backend;
  const Parameters *p = decoder->parameters;
  const LoraConfig *lora = &decoder->config.lora;
  for (int t = 0; lora->rank && t < LORA_TARGETS; t++) {
    Part part = part_of(&decoder->config, (LoraTarget)t);
    if (!lora->target[t] || part.product != product) continue;
    int b_index = decoder->layer[layer].lora_b[t];
    backend->linear_backward(backend, &(LinearBackward){.x = a->low[t],
                                                        .weight = parameters_weight(p, b_index),
                                                        .dy = columns_from(decoder, dy, part.first),
                                                        .dy_stride = part.width,
                                                        .dx = dlow,
                                                        .dweight = parameters_grad(p, b_index),
                                                        .rows = rows,
                                                        .in = lora->rank,
                                                        .out = part.out,
                                                        .scale = lora->alpha / (float)lora->rank});
    backward_of_a(decoder, layer, t, a, dropout, x, dlow, dx, rows, part.in);
  }
}

/* ---- merging ---- */

static const HostTensor *tensor_named(const HostTensor *tensors, int count, const char *name) {
  for (int i = 0; i < count; i++)
    if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
  return NULL;
}

static void merge_part(const DecoderConfig *c, LoraTarget target, float *weight, const float *a,
                       const float *b) {
  Part part = part_of(c, target);
  int rank = c->lora.rank;
  double scale = (double)c->lora.alpha / rank;
#pragma omp parallel for
  for (int o = 0; o < part.out; o++)
    for (int i = 0; i < part.in; i++) {
      double sum = 0;
      for (int r = 0; r < rank; r++) sum += (double)b[o * rank + r] * (double)a[(size_t)r * part.in + i];
      weight[(size_t)(part.first + o) * part.in + i] += (float)(scale * sum);
    }
}

static const char *const product_names[] = {"attention.qkv", "attention.proj", "mlp.up", "mlp.down"};

void adapter_target_rows(const DecoderConfig *config, LoraTarget target, const char **product, int *first,
                         int *rows) {
  Part part = part_of(config, target);
  *product = product_names[part.product];
  *first = part.first;
  *rows = part.out;
}

bool adapter_changes(const DecoderConfig *c, const char *tensor) {
  for (int t = 0; t < LORA_TARGETS; t++) {
    if (!c->lora.target[t]) continue;
    const char *product = product_names[part_of(c, (LoraTarget)t).product], *at = strstr(tensor, product);
    if (at && strcmp(at + strlen(product), ".weight") == 0) return true;
  }
  return false;
}

int adapter_merge(const DecoderConfig *c, Arena *scratch, HostTensor *tensors, int count) {
  for (int layer = 0; layer < c->layers; layer++)
    for (int t = 0; t < LORA_TARGETS; t++) {
      if (!c->lora.target[t]) continue;
      const char *product = product_names[part_of(c, (LoraTarget)t).product];
      const char *low = arena_print(scratch, "layers.%d.lora.%s", layer, lora_target_names[t]);
      const HostTensor *weight =
          tensor_named(tensors, count, arena_print(scratch, "layers.%d.%s.weight", layer, product));
      const HostTensor *a = tensor_named(tensors, count, arena_print(scratch, "%s.a", low));
      const HostTensor *b = tensor_named(tensors, count, arena_print(scratch, "%s.b", low));
      if (weight && a && b) merge_part(c, (LoraTarget)t, (float *)weight->data, a->data, b->data);
    }
  int kept = 0;
  for (int i = 0; i < count; i++)
    if (!strstr(tensors[i].name, ".lora.")) tensors[kept++] = tensors[i];
  return kept;
}
