/* Benchmarks of attention in its three forms, the rotary embedding and the key-value cache. In the formulas w
 * is the width of a stored element, d the head dimension, Hq and Hkv the query and key-value heads, T the
 * length of a sequence, N the sum of all T and P the length of a prefix, which is 0 or that of P-tuning v2's
 * examples. */
#include <string.h>

#include "bench_kernels.h"

enum { PREFIX = 128 };

static size_t qkv_width(const BenchShape *shape) {
  return (size_t)(shape->heads + 2 * shape->kv_heads) * shape->head_dim;
}

static Sequences sequences_of(BenchInputs *in, const BenchShape *shape, double *squares) {
  int32_t *cu;
  Sequences s = bench_sequences(in, shape->sequences, shape->shortest, shape->longest, &cu);
  *squares = 0;
  for (int b = 0; b < s.count; b++) {
    double length = cu[b + 1] - cu[b];
    *squares += length * length;
  }
  return s;
}

static const char *attention_size(BenchInputs *in, const BenchShape *shape, const Sequences *s) {
  if (shape->shortest == shape->longest)
    return arena_print(in->arena, "%d x %d, %d/%d heads of %d", s->count, shape->longest, shape->heads,
                       shape->kv_heads, shape->head_dim);
  return arena_print(in->arena, "%d x %d..%d, %d/%d heads of %d", s->count, shape->shortest, shape->longest,
                     shape->heads, shape->kv_heads, shape->head_dim);
}

/* What the rows of attention differ in. */
typedef struct Variant {
  int prefix; /* P */
  bool full, branches;
} Variant;

/* A batch with the pairs of a query and a key that it sees, a causal triangle counted as half a square. */
typedef struct AttentionBatch {
  Sequences sequences;
  double pairs;
  double indices; /* bytes that say which keys a row sees, but for cu_seqlens */
  const char *size;
} AttentionBatch;

/* sum (T^2 / 2 + P T), or T^2 without the causal mask */
static AttentionBatch packed_batch(BenchInputs *in, const BenchShape *shape, Variant variant) {
  double squares;
  AttentionBatch out = {.sequences = sequences_of(in, shape, &squares)};
  out.pairs = (variant.full ? 1 : 0.5) * squares + (double)variant.prefix * out.sequences.tokens;
  out.size = attention_size(in, shape, &out.sequences);
  return out;
}

/* The rows of a training batch whose samples share their post: a sequence is a post and its replies as
 * branches. sum (T^2 / 2 + sum over replies (R T + R^2 / 2)), T the post's length and R a reply's */
static AttentionBatch branched_batch(BenchInputs *in, const BenchShape *shape) {
  int posts = (shape->sequences + shape->samples - 1) / shape->samples, replies = posts * shape->samples;
  int shortest = shape->shortest > shape->reply ? shape->shortest - shape->reply : 1;
  int longest = shape->longest > shape->reply ? shape->longest - shape->reply : 1;
  int32_t *shared, *reply, *cu = NEW(in->arena, int32_t, posts + 1);
  AttentionBatch out = {.sequences.count = posts};
  Sequences *s = &out.sequences;
  s->shared = bench_integers(in, posts, shortest, longest, &shared);
  bench_integers(in, replies, 1, shape->reply, &reply);
  int32_t *branch = NEW(in->arena, int32_t, posts * (longest + shape->samples * shape->reply));
  for (int p = 0; p < posts; p++) {
    double T = shared[p];
    out.pairs += T * T / 2;
    for (int t = 0; t < shared[p]; t++) branch[cu[p] + t] = cu[p];
    cu[p + 1] = cu[p] + shared[p];
    for (int r = p * shape->samples; r < (p + 1) * shape->samples; r++) {
      double R = reply[r];
      out.pairs += R * T + R * R / 2;
      for (int t = 0; t < reply[r]; t++) branch[cu[p + 1] + t] = cu[p + 1];
      cu[p + 1] += reply[r];
    }
    int length = cu[p + 1] - cu[p];
    if (length > s->max_len) s->max_len = length;
  }
  s->tokens = cu[posts];
  s->cu_seqlens = bench_upload(in, cu, ((size_t)posts + 1) * sizeof *cu);
  s->branch = bench_upload(in, branch, (size_t)s->tokens * sizeof *branch);
  out.indices = 4.0 * (s->tokens + posts);
  out.size = arena_print(in->arena, "%d posts %d..%d, %d x 1..%d each", posts, shortest, longest,
                         shape->samples, shape->reply);
  return out;
}

static AttentionBatch batch_of(BenchInputs *in, const BenchShape *shape, Variant variant) {
  return variant.branches ? branched_batch(in, shape) : packed_batch(in, shape, variant);
}

static size_t prefix_size(const BenchShape *shape, int prefix) {
  return (size_t)prefix * 2 * (size_t)shape->kv_heads * shape->head_dim;
}

/* 4 d Hq operations a pair; qkv and the prefix are read, out and lse are written. */
static void make_forward(BenchInputs *in, const BenchShape *shape, Variant variant, BenchCall *call) {
  AttentionBatch batch = batch_of(in, shape, variant);
  size_t N = (size_t)batch.sequences.tokens, out = (size_t)shape->heads * shape->head_dim,
         P = prefix_size(shape, variant.prefix);
  call->op = BENCH_OP(
      in, Attention, .sequences = batch.sequences, .qkv = bench_numbers(in, N * qkv_width(shape), ACTIVATION),
      .prefix = P ? bench_numbers(in, P, ACTIVATION) : NULL, .prefix_len = variant.prefix,
      .out = bench_output(in, N * out * dtype_bytes(in->backend->storage)),
      .lse = bench_output(in, N * (size_t)shape->heads * sizeof(float)), .heads = shape->heads,
      .kv_heads = shape->kv_heads, .head_dim = shape->head_dim, .full = variant.full);
  call->operations = 4.0 * (double)out * batch.pairs;
  call->bytes = width_of(in) * (double)(N * (qkv_width(shape) + out) + P) + 4.0 * (double)N * shape->heads +
                batch.indices;
  call->size = batch.size;
}

static void make_attention(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_forward(in, shape, (Variant){0}, call);
}

static void make_attention_full(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_forward(in, shape, (Variant){.full = true}, call);
}

static void make_attention_prefix(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_forward(in, shape, (Variant){.prefix = PREFIX}, call);
}

static void make_attention_branches(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_forward(in, shape, (Variant){.branches = true}, call);
}

static bool run_attention_baseline(Backend *backend, const void *op, int which, Baseline *is) {
  return backend->attention_baseline && backend->attention_baseline(backend, op, which, is);
}

static bool run_attention_backward_baseline(Backend *backend, const void *op, int which, Baseline *is) {
  return backend->attention_backward_baseline && backend->attention_backward_baseline(backend, op, which, is);
}

/* 10 d Hq operations a pair; qkv, the prefix, out, dout and lse are read, dqkv is written, the prefix's
 * gradient added to. out and lse are the forward pass's own, so that the probabilities are. */
static void make_backward(BenchInputs *in, const BenchShape *shape, Variant variant, BenchCall *call) {
  AttentionBatch batch = batch_of(in, shape, variant);
  size_t N = (size_t)batch.sequences.tokens, width = (size_t)shape->heads * shape->head_dim,
         P = prefix_size(shape, variant.prefix);
  size_t bytes = dtype_bytes(in->backend->storage);
  Attention forward = {.sequences = batch.sequences,
                       .qkv = bench_numbers(in, N * qkv_width(shape), ACTIVATION),
                       .prefix = P ? bench_numbers(in, P, ACTIVATION) : NULL,
                       .prefix_len = variant.prefix,
                       .out = bench_output(in, N * width * bytes),
                       .lse = bench_output(in, N * (size_t)shape->heads * sizeof(float)),
                       .heads = shape->heads,
                       .kv_heads = shape->kv_heads,
                       .head_dim = shape->head_dim,
                       .full = variant.full};
  if (in->status == OK) in->backend->attention(in->backend, &forward);
  call->op = BENCH_OP(in, AttentionBackward, .sequences = forward.sequences, .qkv = forward.qkv,
                      .prefix = forward.prefix, .prefix_len = variant.prefix,
                      .dprefix = P ? bench_numbers(in, P, WEIGHT) : NULL, .out = forward.out,
                      .dout = bench_numbers(in, N * width, WEIGHT), .lse = forward.lse,
                      .dqkv = bench_output(in, N * qkv_width(shape) * bytes), .heads = shape->heads,
                      .kv_heads = shape->kv_heads, .head_dim = shape->head_dim, .full = variant.full);
  call->operations = 10.0 * (double)width * batch.pairs;
  call->bytes = width_of(in) * (double)(N * (2 * qkv_width(shape) + 2 * width) + 3 * P) +
                4.0 * (double)N * shape->heads + batch.indices;
  call->size = batch.size;
}

static void make_attention_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_backward(in, shape, (Variant){0}, call);
}

static void make_full_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_backward(in, shape, (Variant){.full = true}, call);
}

static void make_prefix_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_backward(in, shape, (Variant){.prefix = PREFIX}, call);
}

static void make_branches_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_backward(in, shape, (Variant){.branches = true}, call);
}

/* The query and key heads are read and written. */
static void make_rope(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  double squares;
  Sequences s = sequences_of(in, shape, &squares);
  call->op = BENCH_OP(in, Rope, .qkv = bench_numbers(in, (size_t)s.tokens * qkv_width(shape), ACTIVATION),
                      .positions = bench_integers(in, s.tokens, 0, shape->longest - 1, NULL),
                      .rows = s.tokens, .heads = shape->heads, .kv_heads = shape->kv_heads,
                      .head_dim = shape->head_dim, .theta = 10000);
  call->bytes = 2 * width_of(in) * s.tokens * (shape->heads + shape->kv_heads) * (double)shape->head_dim +
                4.0 * s.tokens;
  call->size = attention_size(in, shape, &s);
}

/* qk_norm and its backward pass overwrite their input; run after run it would shrink to numbers that are
 * slow. */
typedef struct QkNormCase {
  QkNorm norm; /* first: run takes it for the operation */
  const void *qkv;
  size_t bytes;
} QkNormCase;

typedef struct QkNormBackwardCase {
  QkNormBackward backward; /* first */
  const void *dqkv;
  size_t bytes;
} QkNormBackwardCase;

/* 3 w an element of the normed heads (read, written, kept) and 4 a head; backward: 3 w, too. The gains
 * besides. */
static void make_qk_norm(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  double squares;
  Sequences s = sequences_of(in, shape, &squares);
  size_t normed = (size_t)shape->heads + (size_t)shape->kv_heads, N = (size_t)s.tokens,
         d = (size_t)shape->head_dim;
  size_t bytes = N * qkv_width(shape) * dtype_bytes(in->backend->storage);
  QkNorm norm = {.qkv = bench_output(in, bytes),
                 .kept = bench_output(in, N * normed * d * dtype_bytes(in->backend->storage)),
                 .rstd = bench_output(in, N * normed * sizeof(float)),
                 .q_gain = bench_numbers(in, d, ACTIVATION),
                 .k_gain = bench_numbers(in, d, ACTIVATION),
                 .rows = s.tokens,
                 .heads = shape->heads,
                 .kv_heads = shape->kv_heads,
                 .head_dim = shape->head_dim,
                 .epsilon = 1e-6f};
  call->op = BENCH_OP(in, QkNormCase, .norm = norm,
                      .qkv = bench_numbers(in, N * qkv_width(shape), ACTIVATION), .bytes = bytes);
  call->bytes =
      width_of(in) * (3.0 * (double)(N * normed * d) + 2.0 * (double)d) + 4.0 * (double)(N * normed);
  call->size = attention_size(in, shape, &s);
}

static void restore_qk_norm(Backend *backend, const void *op) {
  const QkNormCase *c = op;
  backend->copy(backend, c->norm.qkv, c->qkv, c->bytes);
}

static void make_qk_norm_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  double squares;
  Sequences s = sequences_of(in, shape, &squares);
  size_t normed = (size_t)shape->heads + (size_t)shape->kv_heads, N = (size_t)s.tokens,
         d = (size_t)shape->head_dim;
  size_t bytes = N * qkv_width(shape) * dtype_bytes(in->backend->storage);
  QkNormBackward backward = {.dqkv = bench_output(in, bytes),
                             .kept = bench_numbers(in, N * normed * d, ACTIVATION),
                             .rstd = bench_floats(in, N * normed, ACTIVATION),
                             .q_gain = bench_numbers(in, d, ACTIVATION),
                             .k_gain = bench_numbers(in, d, ACTIVATION),
                             .dq_gain = bench_numbers(in, d, WEIGHT),
                             .dk_gain = bench_numbers(in, d, WEIGHT),
                             .rows = s.tokens,
                             .heads = shape->heads,
                             .kv_heads = shape->kv_heads,
                             .head_dim = shape->head_dim};
  call->op = BENCH_OP(in, QkNormBackwardCase, .backward = backward,
                      .dqkv = bench_numbers(in, N * qkv_width(shape), WEIGHT), .bytes = bytes);
  call->bytes =
      width_of(in) * (3.0 * (double)(N * normed * d) + 6.0 * (double)d) + 4.0 * (double)(N * normed);
  call->size = attention_size(in, shape, &s);
}

static void restore_qk_norm_backward(Backend *backend, const void *op) {
  const QkNormBackwardCase *c = op;
  backend->copy(backend, c->backward.dqkv, c->dqkv, c->bytes);
}

/* 4 w Hkv d a row: keys and values are read and written. */
static void make_kv_store(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  double squares;
  Sequences s = sequences_of(in, shape, &squares);
  size_t N = (size_t)s.tokens, cached = 2 * (size_t)shape->kv_heads * shape->head_dim;
  call->op =
      BENCH_OP(in, KvStore, .qkv = bench_numbers(in, N * qkv_width(shape), ACTIVATION),
               .row = bench_steps(in, s.tokens, 0, 1),
               .cache = bench_output(in, N * cached * dtype_bytes(in->backend->storage)), .rows = s.tokens,
               .heads = shape->heads, .kv_heads = shape->kv_heads, .head_dim = shape->head_dim);
  call->bytes = 2 * width_of(in) * (double)(N * cached) + 4.0 * (double)N;
  call->size = attention_size(in, shape, &s);
}

/* Each key and value is read once, however many samples share it: 2 w Hkv d (posts' tokens + replies'
 * tokens), and the new tokens' qkv and out. 4 d Hq operations a row and key. */
static void make_attention_decode(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = shape->replies, posts = (rows + shape->samples - 1) / shape->samples;
  size_t cached = 2 * (size_t)shape->kv_heads * shape->head_dim, out = (size_t)shape->heads * shape->head_dim;
  int32_t *cu, *length, *post = NEW(in->arena, int32_t, rows + 1);
  Sequences s = bench_sequences(in, posts, shape->shortest, shape->longest, &cu);
  for (int r = 0; r < rows; r++) post[r] = r / shape->samples;
  call->op = BENCH_OP(
      in, AttentionDecode, .qkv = bench_numbers(in, (size_t)rows * qkv_width(shape), ACTIVATION),
      .post_cache = bench_numbers(in, (size_t)s.tokens * cached, ACTIVATION), .post_cu_seqlens = s.cu_seqlens,
      .post = bench_upload(in, post, (size_t)rows * sizeof *post),
      .reply_cache = bench_numbers(in, (size_t)rows * shape->reply * cached, ACTIVATION),
      .slot = bench_steps(in, rows, 0, 1), .reply_len = bench_integers(in, rows, 1, shape->reply, &length),
      .rows = rows, .max_reply = shape->reply, .heads = shape->heads, .kv_heads = shape->kv_heads,
      .head_dim = shape->head_dim,
      .out = bench_output(in, (size_t)rows * out * dtype_bytes(in->backend->storage)));
  double reply_keys = 0, pairs = 0;
  for (int r = 0; r < rows; r++) {
    reply_keys += length[r];
    pairs += length[r] + cu[post[r] + 1] - cu[post[r]];
  }
  call->operations = 4.0 * (double)out * pairs;
  call->bytes =
      width_of(in) * ((double)cached * (s.tokens + reply_keys) + rows * (double)(qkv_width(shape) + out)) +
      12.0 * rows;
  call->size = arena_print(in->arena, "%d rows, %d posts, %.0f keys", rows, posts, s.tokens + reply_keys);
}

BENCH_RUN(attention)
BENCH_RUN(attention_backward)
BENCH_RUN(rope)
BENCH_RUN(qk_norm)
BENCH_RUN(qk_norm_backward)
BENCH_RUN(kv_store)
BENCH_RUN(attention_decode)

static const BenchKernel rows[] = {
    {"attention", SET_ALL, "causal, over packed sequences", make_attention, run_attention, NULL,
     run_attention_baseline},
    {"attention_backward", SET_ALL, "its gradient", make_attention_backward, run_attention_backward, NULL,
     run_attention_backward_baseline},
    {"attention_full", SET_RLHF | SET_LONG | SET_TINY, "without the causal mask", make_attention_full,
     run_attention, NULL, run_attention_baseline},
    {"full_backward", SET_RLHF | SET_LONG | SET_TINY, "its gradient", make_full_backward,
     run_attention_backward, NULL, run_attention_backward_baseline},
    {"attention_branches", SET_RLHF | SET_TINY, "replies that share their post", make_attention_branches,
     run_attention, NULL, run_attention_baseline},
    {"branches_backward", SET_RLHF | SET_TINY, "its gradient", make_branches_backward, run_attention_backward,
     NULL, run_attention_backward_baseline},
    {"attention_prefix", SET_RLHF | SET_TINY, "behind a trained prefix of 128 keys", make_attention_prefix,
     run_attention, NULL, run_attention_baseline},
    {"prefix_backward", SET_RLHF | SET_TINY, "its gradient and the prefix's", make_prefix_backward,
     run_attention_backward, NULL, run_attention_backward_baseline},
    {"attention_decode", SET_ALL, "one new token a row against caches", make_attention_decode,
     run_attention_decode, NULL, NULL},
    {"rope", SET_ALL, "rotary embedding in place", make_rope, run_rope, NULL, NULL},
    {"qk_norm", SET_ALL, "RMS norm of query and key heads in place", make_qk_norm, run_qk_norm,
     restore_qk_norm, NULL},
    {"qk_norm_backward", SET_ALL, "its gradients", make_qk_norm_backward, run_qk_norm_backward,
     restore_qk_norm_backward, NULL},
    {"kv_store", SET_RLHF | SET_LARGE | SET_TINY, "keys and values into a cache", make_kv_store, run_kv_store,
     NULL, NULL},
};

const BenchKernels bench_attention_kernels = BENCH_ROWS(rows);
