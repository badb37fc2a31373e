/* Attention on the CPU against a double-precision reference that holds the whole score matrix. */
#include "gradcheck.h"

typedef struct Case {
  int count, tokens, max_len, heads, kv_heads, dim, prefix_len;
  int32_t *cu;
  double *qkv, *dout, *prefix; /* what the reference reads */
  float *qkv32, *dout32, *prefix32, *out, *lse, *dqkv, *dprefix;
  int32_t *shared, *branch; /* NULL: no branches */
  bool full;
  Backend *backend;
} Case;

static Case make_case(Check *c, const int *lengths, int count, int heads, int kv_heads, int dim,
                      double scale) {
  Case k = {.count = count, .heads = heads, .kv_heads = kv_heads, .dim = dim, .backend = c->backend};
  k.cu = NEW(&c->arena, int32_t, count + 1);
  for (int i = 0; i < count; i++) {
    k.cu[i + 1] = k.cu[i] + lengths[i];
    k.max_len = lengths[i] > k.max_len ? lengths[i] : k.max_len;
  }
  k.tokens = k.cu[count];
  size_t n = (size_t)k.tokens;
  k.qkv = check_doubles(c, n * (heads + 2 * kv_heads) * dim, scale);
  k.dout = check_doubles(c, n * heads * dim, 1);
  k.qkv32 = check_floats(c, k.qkv, n * (heads + 2 * kv_heads) * dim);
  k.dout32 = check_floats(c, k.dout, n * heads * dim);
  k.out = check_output(c, n * heads * dim);
  k.lse = check_output(c, n * heads);
  k.dqkv = check_output(c, n * (heads + 2 * kv_heads) * dim);
  return k;
}

static size_t prefix_count(const Case *k) { return (size_t)k->prefix_len * 2 * k->kv_heads * k->dim; }

/* Puts a random prefix before the sequences. Its gradient is added to zeros. */
static void add_prefix(Check *c, Case *k, int prefix_len, double scale) {
  k->prefix_len = prefix_len;
  k->prefix = check_doubles(c, prefix_count(k), scale);
  k->prefix32 = check_floats(c, k->prefix, prefix_count(k));
  k->dprefix = NEW(&c->arena, float, prefix_count(k));
}

static Sequences sequences_of(const Case *k) {
  return (Sequences){.cu_seqlens = k->cu,
                     .count = k->count,
                     .tokens = k->tokens,
                     .max_len = k->max_len,
                     .shared = k->shared,
                     .branch = k->branch};
}

/* Cuts every sequence into shared tokens, or none, and branches of 1 to `longest` tokens. */
static void add_branches(Check *c, Case *k, int longest) {
  k->shared = NEW(&c->arena, int32_t, k->count);
  k->branch = NEW(&c->arena, int32_t, k->tokens);
  for (int b = 0; b < k->count; b++) {
    int length = k->cu[b + 1] - k->cu[b];
    k->shared[b] = check_size(c, 0, 2) ? check_size(c, 0, length) : 0;
    for (int t = k->cu[b]; t < k->cu[b] + k->shared[b]; t++) k->branch[t] = k->cu[b];
    for (int t = k->cu[b] + k->shared[b], next; t < k->cu[b + 1]; t = next) {
      next = t + check_size(c, 1, longest);
      if (next > k->cu[b + 1]) next = k->cu[b + 1];
      for (int i = t; i < next; i++) k->branch[i] = t;
    }
  }
}

static void run(void *context) {
  Case *k = context;
  k->backend->attention(k->backend, &(Attention){.sequences = sequences_of(k),
                                                 .qkv = k->qkv32,
                                                 .prefix = k->prefix32,
                                                 .prefix_len = k->prefix_len,
                                                 .out = k->out,
                                                 .lse = k->lse,
                                                 .heads = k->heads,
                                                 .kv_heads = k->kv_heads,
                                                 .head_dim = k->dim,
                                                 .full = k->full});
  k->backend->attention_backward(k->backend, &(AttentionBackward){.sequences = sequences_of(k),
                                                                  .qkv = k->qkv32,
                                                                  .prefix = k->prefix32,
                                                                  .dprefix = k->dprefix,
                                                                  .prefix_len = k->prefix_len,
                                                                  .out = k->out,
                                                                  .dout = k->dout32,
                                                                  .lse = k->lse,
                                                                  .dqkv = k->dqkv,
                                                                  .heads = k->heads,
                                                                  .kv_heads = k->kv_heads,
                                                                  .head_dim = k->dim,
                                                                  .full = k->full});
}

/* Key head kv (or value head, kv + kv_heads) of the j-th key that the sequence beginning at `first` sees. */
static const double *key_at(const Case *k, int first, int j, int head) {
  if (j < k->prefix_len) return k->prefix + ((size_t)j * 2 * k->kv_heads + head) * k->dim;
  size_t token = (size_t)(first + j - k->prefix_len);
  return k->qkv + (token * (k->heads + 2 * k->kv_heads) + k->heads + head) * k->dim;
}

static int keys_of(const Case *k, int b) { return k->prefix_len + k->cu[b + 1] - k->cu[b]; }

/* Whether token t of sequence b sees the j-th of its keys. */
static bool sees(const Case *k, int b, int t, int j) {
  int key = k->cu[b] + j - k->prefix_len;
  if (j < k->prefix_len || k->full) return true;
  return key <= t && (!k->branch || key < k->cu[b] + k->shared[b] || key >= k->branch[t]);
}

/* One row of one head: out[dim], returns lse. p[] has room for the sequence's keys. */
static double reference_row(const Case *k, int b, int t, int h, double *p, double *out) {
  int kv = h / (k->heads / k->kv_heads), keys = keys_of(k, b), first = k->cu[b];
  const double *q = k->qkv + ((size_t)t * (k->heads + 2 * k->kv_heads) + h) * k->dim;
  double top = -INFINITY, sum = 0;
  for (int j = 0; j < keys; j++) {
    const double *key = key_at(k, first, j, kv);
    double s = 0;
    for (int c = 0; c < k->dim; c++) s += q[c] * key[c];
    p[j] = sees(k, b, t, j) ? s / sqrt(k->dim) : -INFINITY;
    top = fmax(top, p[j]);
  }
  for (int j = 0; j < keys; j++) sum += p[j] = exp(p[j] - top);
  for (int c = 0; c < k->dim; c++) out[c] = 0;
  for (int j = 0; j < keys; j++)
    for (int c = 0; c < k->dim; c++) out[c] += p[j] / sum * key_at(k, first, j, k->kv_heads + kv)[c];
  return top + log(sum);
}

static void reference(const Case *k, double *out, double *lse) {
  double p[1024], row[128];
  for (int b = 0; b < k->count; b++)
    for (int t = k->cu[b]; t < k->cu[b + 1]; t++)
      for (int h = 0; h < k->heads; h++) {
        double l = reference_row(k, b, t, h, p, row);
        if (lse) lse[(size_t)h * k->tokens + t] = l;
        memcpy(out + ((size_t)t * k->heads + h) * k->dim, row, (size_t)k->dim * sizeof *row);
      }
}

static double reference_loss(void *context) {
  Case *k = context;
  size_t n = (size_t)k->tokens * k->heads * k->dim;
  double *out = calloc(n + 1, sizeof *out), sum = 0;
  reference(k, out, NULL);
  for (size_t i = 0; i < n; i++) sum += out[i] * k->dout[i];
  free(out);
  return sum;
}

static void check_case(Check *c, Case *k, double tolerance) {
  size_t n = (size_t)k->tokens * k->heads;
  run(k);
  double *out = NEW(&c->arena, double, n * k->dim), *lse = NEW(&c->arena, double, n);
  reference(k, out, lse);
  check_close(c, "out", k->out, out, n * k->dim, tolerance);
  check_close(c, "lse", k->lse, lse, n, tolerance);
  size_t all = (size_t)k->tokens * (k->heads + 2 * k->kv_heads) * k->dim;
  for (size_t i = 0; i < all; i++) assert_true(isfinite(k->dqkv[i]));
}

/* The forward pass, and gradients by differences. */
static void check_by_differences(Check *c, Case *k) {
  check_case(c, k, 2e-5);
  check_gradient(c, "dqkv", reference_loss, k, k->qkv, k->dqkv,
                 (size_t)k->tokens * (k->heads + 2 * k->kv_heads) * k->dim, 2e-4);
  if (k->prefix)
    check_gradient(c, "dprefix", reference_loss, k, k->prefix, k->dprefix, prefix_count(k), 2e-4);
}

static void random_ragged_shapes_match_the_reference_and_its_gradients(void **state) {
  (void)state;
  static const int dims[] = {1, 7, 16, 32, 64}, kv[] = {1, 2, 3}, groups[] = {1, 2, 3};
  Check c;
  check_begin(&c, "attention");
  for (int round = 0; round < 12; round++) {
    int lengths[8], count = check_size(&c, 0, 5);
    for (int i = 0; i < count; i++)
      lengths[i] = check_size(&c, 0, 1) ? check_size(&c, 0, 37) : check_size(&c, 0, 3);
    int kv_heads = kv[check_size(&c, 0, 2)];
    Case k = make_case(&c, lengths, count, kv_heads * groups[check_size(&c, 0, 2)], kv_heads,
                       dims[check_size(&c, 0, 4)], 1.5);
    check_by_differences(&c, &k);
  }
  check_end(&c);
}

/* The gradient of every entry in closed form, for lengths where differences would take too long. */
static void reference_gradient(const Case *k, double *dqkv, double *dprefix) {
  int stride = (k->heads + 2 * k->kv_heads) * k->dim;
  double p[1024], row[128];
  for (int b = 0; b < k->count; b++)
    for (int t = k->cu[b]; t < k->cu[b + 1]; t++)
      for (int h = 0; h < k->heads; h++) {
        int first = k->cu[b], kv = h / (k->heads / k->kv_heads), keys = keys_of(k, b);
        reference_row(k, b, t, h, p, row);
        const double *d = k->dout + ((size_t)t * k->heads + h) * k->dim,
                     *q = k->qkv + (size_t)t * stride + h * k->dim;
        double sum = 0, delta = 0;
        for (int j = 0; j < keys; j++) sum += p[j];
        for (int c = 0; c < k->dim; c++) delta += d[c] * row[c];
        for (int j = 0; j < keys; j++) {
          const double *key = key_at(k, first, j, kv), *value = key_at(k, first, j, k->kv_heads + kv);
          double *dkey = j < k->prefix_len ? dprefix + (key - k->prefix) : dqkv + (key - k->qkv);
          double w = p[j] / sum, dp = 0;
          for (int c = 0; c < k->dim; c++) dp += d[c] * value[c];
          double ds = w * (dp - delta) / sqrt(k->dim);
          for (int c = 0; c < k->dim; c++) {
            dkey[k->kv_heads * k->dim + c] += w * d[c];
            dkey[c] += ds * q[c];
            dqkv[(size_t)t * stride + h * k->dim + c] += ds * key[c];
          }
        }
      }
}

/* The forward pass, and gradients in closed form; that of the prefix is added to what is there. */
static void check_in_closed_form(Check *c, Case *k) {
  size_t all = (size_t)k->tokens * (k->heads + 2 * k->kv_heads) * k->dim;
  double *dqkv = NEW(&c->arena, double, all), *dprefix = NEW(&c->arena, double, prefix_count(k));
  for (size_t j = 0; j < prefix_count(k); j++) dprefix[j] = (double)k->dprefix[j];
  check_case(c, k, 2e-5);
  reference_gradient(k, dqkv, dprefix);
  check_close(c, "dqkv", k->dqkv, dqkv, all, 1e-4);
  if (k->prefix) check_close(c, "dprefix", k->dprefix, dprefix, prefix_count(k), 1e-4);
}

static void lengths_at_the_edges_of_the_blocks_match(void **state) {
  (void)state;
  static const int lengths[] = {63, 64, 65, 0, 1, 255, 257, 331};
  Check c;
  check_begin(&c, "attention edges");
  Case k = make_case(&c, lengths, 8, 2, 1, 16, 2);
  check_in_closed_form(&c, &k);
  check_end(&c);
}

/* A few sequences, `fewest` at least, of which half are short. */
static Case random_case(Check *c, int fewest) {
  static const int dims[] = {1, 7, 16, 32}, kv[] = {1, 2, 3}, groups[] = {1, 2};
  int lengths[8], count = check_size(c, fewest, 6);
  for (int i = 0; i < count; i++) lengths[i] = check_size(c, 0, 1) ? check_size(c, 0, 37) : i % 3;
  int kv_heads = kv[check_size(c, 0, 2)], heads = kv_heads * groups[check_size(c, 0, 1)];
  return make_case(c, lengths, count, heads, kv_heads, dims[check_size(c, 0, 3)], 1.5);
}

static void a_prefix_stands_before_every_sequence(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "attention prefix");
  for (int round = 0; round < 12; round++) {
    Case k = random_case(&c, 1);
    add_prefix(&c, &k, round ? check_size(&c, 1, 21) : 1, 1.5);
    check_by_differences(&c, &k);
  }
  check_end(&c);
}

/* 40 sequences, so that a slice of the batch has several, and blocks of 192 keys that begin anywhere in a
 * block of 48 queries. */
static void prefixes_of_every_length_match_at_the_edges_of_the_blocks(void **state) {
  (void)state;
  static const int prefixes[] = {1, 47, 48, 63, 64, 100, 191, 192, 193};
  Check c;
  check_begin(&c, "attention prefix edges");
  for (int i = 0; i < 9; i++) {
    int lengths[40] = {i % 2 ? 47 : 193, 0, 49, 1};
    for (int b = 4; b < 40; b++) lengths[b] = b % 4;
    Case k = make_case(&c, lengths, 40, 2, 1, 8, 2);
    add_prefix(&c, &k, prefixes[i], 2);
    for (size_t j = 0; j < prefix_count(&k); j++) k.dprefix[j] = 1; /* what is added to */
    check_in_closed_form(&c, &k);
  }
  check_end(&c);
}

static void a_frozen_prefix_gets_no_gradient(void **state) {
  (void)state;
  static const int lengths[] = {30, 7, 64};
  Check c;
  check_begin(&c, "attention frozen prefix");
  Case k = make_case(&c, lengths, 3, 4, 2, 16, 1);
  add_prefix(&c, &k, 13, 1);
  run(&k);
  size_t all = (size_t)k.tokens * 8 * k.dim;
  float *before = NEW(&c.arena, float, all);
  memcpy(before, k.dqkv, all * sizeof *before);
  k.dprefix = NULL;
  run(&k);
  check_same(&c, "dqkv", k.dqkv, before, all);
  check_end(&c);
}

static void an_empty_batch_leaves_the_prefix_gradient(void **state) {
  (void)state;
  static const int lengths[] = {0, 0};
  Check c;
  check_begin(&c, "attention empty prefix");
  for (int count = 0; count <= 2; count += 2) {
    Case k = make_case(&c, lengths, count, 2, 1, 8, 1);
    add_prefix(&c, &k, 5, 1);
    k.dprefix[3] = 4;
    run(&k);
    for (size_t i = 0; i < prefix_count(&k); i++) assert_true(k.dprefix[i] == (i == 3 ? 4 : 0));
  }
  check_end(&c);
}

static void branches_see_what_they_share_and_themselves(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "attention branches");
  for (int round = 0; round < 12; round++) {
    Case k = random_case(&c, 0);
    add_branches(&c, &k, 9);
    if (round % 3 == 0) add_prefix(&c, &k, check_size(&c, 1, 9), 1.5);
    check_by_differences(&c, &k);
  }
  check_end(&c);
}

/* Blocks of keys that a block of queries skips, and rows that see nothing of the first one they meet. */
static void long_branches_match_at_the_edges_of_the_blocks(void **state) {
  (void)state;
  static const int lengths[] = {700, 1, 193, 48, 500};
  Check c;
  check_begin(&c, "attention branch edges");
  for (int longest = 40; longest <= 400; longest += 180) {
    Case k = make_case(&c, lengths, 5, 2, 1, 16, 2);
    add_branches(&c, &k, longest);
    check_in_closed_form(&c, &k);
  }
  check_end(&c);
}

static void full_attention_sees_the_whole_sequence(void **state) {
  (void)state;
  static const int lengths[] = {63, 64, 65, 0, 1, 255, 257};
  Check c;
  check_begin(&c, "attention full");
  for (int prefix = 0; prefix < 60; prefix += 50) {
    Case k = make_case(&c, lengths, 7, 4, 2, 16, 2);
    k.full = true;
    if (prefix) add_prefix(&c, &k, prefix, 2);
    check_in_closed_form(&c, &k);
  }
  check_end(&c);
}

static void large_scores_give_no_nan(void **state) {
  (void)state;
  static const int lengths[] = {300, 5};
  Check c;
  check_begin(&c, "attention large");
  Case k = make_case(&c, lengths, 2, 1, 1, 16, 80); /* scores to about 1e4 */
  check_case(&c, &k, 5e-3);
  check_end(&c);
}

static void no_token_sees_a_later_one_or_another_sequence(void **state) {
  (void)state;
  static const int lengths[] = {70, 20, 90};
  Check c;
  check_begin(&c, "attention causal");
  Case k = make_case(&c, lengths, 3, 2, 2, 16, 1);
  run(&k);
  float *before = NEW(&c.arena, float, (size_t)k.tokens * 32);
  memcpy(before, k.out, (size_t)k.tokens * 32 * sizeof *before);
  for (int t = 80; t < 90; t++) /* the second half of the second sequence */
    for (int i = 0; i < 96; i++) k.qkv32[t * 96 + i] = 1000;
  run(&k);
  check_same(&c, "out before", k.out, before, 80 * 32);
  check_same(&c, "out after", k.out + 90 * 32, before + 90 * 32, 90 * 32);
  assert_true(memcmp(k.out + 80 * 32, before + 80 * 32, 10 * 32 * sizeof *before) != 0);
  check_end(&c);
}

static void check_baseline(Check *c, bool full) {
  static const int lengths[] = {1, 0, 37, 130, 64};
  Case k = make_case(c, lengths, 5, 6, 2, 24, 1.5);
  k.full = full;
  size_t n = (size_t)k.tokens * k.heads;
  double *out = NEW(&c->arena, double, n *k.dim), *lse = NEW(&c->arena, double, n);
  reference(&k, out, lse);
  Attention op = {.sequences = sequences_of(&k),
                  .qkv = k.qkv32,
                  .out = k.out,
                  .lse = k.lse,
                  .heads = k.heads,
                  .kv_heads = k.kv_heads,
                  .head_dim = k.dim,
                  .full = full};
  Baseline is = {0};
  assert_true(k.backend->attention_baseline(k.backend, &op, 0, &is));
  assert_non_null(is.name);
  check_close(c, "out", k.out, out, n * k.dim, 2e-5);
  check_close(c, "lse", k.lse, lse, n, 2e-5);
  assert_false(k.backend->attention_baseline(k.backend, &op, 1, &is));
}

static void the_baseline_computes_the_same(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "attention baseline");
  check_baseline(&c, false);
  check_baseline(&c, true);
  check_end(&c);
}

static void clear_prefix_gradient(void *context) {
  Case *k = context;
  memset(k->dprefix, 0, prefix_count(k) * sizeof *k->dprefix);
}

static void threads_change_no_bit(void **state) {
  (void)state;
  static const int lengths[] = {130, 1, 77, 300, 64};
  Check c;
  check_begin(&c, "attention threads");
  Case k = make_case(&c, lengths, 5, 4, 2, 32, 1);
  add_prefix(&c, &k, 19, 1);
  check_threads(&c, "dprefix", run, &k, clear_prefix_gradient, k.dprefix, prefix_count(&k));
  check_threads(&c, "out", run, &k, NULL, k.out, (size_t)k.tokens * 128);
  check_threads(&c, "lse", run, &k, NULL, k.lse, (size_t)k.tokens * 4);
  check_threads(&c, "dqkv", run, &k, NULL, k.dqkv, (size_t)k.tokens * 256);
  check_end(&c);
}

/* Decoding: posts as packed sequences, samples of them, replies in slots. */
typedef struct Decode {
  AttentionDecode op;
  float *full; /* [rows, Hq d] the last row of full attention over post and reply */
} Decode;

static Decode make_decode(Check *c, int heads, int kv_heads, int dim) {
  enum { POSTS = 5, MOST = 40, MAX_REPLY = 23 };
  int row = (heads + 2 * kv_heads) * dim, cache_row = 2 * kv_heads * dim, rows = 0;
  int prefix_len = check_size(c, 0, 1) ? check_size(c, 1, 70) : 0;
  float *prefix = check_random(c, (size_t)prefix_len * cache_row);
  int32_t *cu = NEW(&c->arena, int32_t, POSTS + 1), *post = NEW(&c->arena, int32_t, MOST),
          *slot = check_permutation(c, MOST), *length = NEW(&c->arena, int32_t, MOST);
  for (int p = 0; p < POSTS; p++) {
    cu[p + 1] = cu[p] + (p == 2 ? 0 : check_size(c, 1, 150));
    for (int samples = p == 1 ? 19 : check_size(c, 0, 4); samples > 0; samples--) post[rows++] = p;
  }
  float *posts = check_random(c, (size_t)cu[POSTS] * row);
  float *post_cache = check_output(c, (size_t)cu[POSTS] * cache_row);
  float *reply_cache = check_output(c, (size_t)MOST * MAX_REPLY * cache_row);
  float *qkv = check_output(c, (size_t)rows * row);
  Backend *b = c->backend;
  KvStore store = {.heads = heads, .kv_heads = kv_heads, .head_dim = dim};
  store.qkv = posts, store.cache = post_cache, store.rows = cu[POSTS];
  b->kv_store(b, &store);
  Decode d = {.full = check_output(c, (size_t)rows * heads * dim)};
  for (int r = 0; r < rows; r++) {
    length[r] = check_size(c, 1, MAX_REPLY);
    int32_t seq[2] = {0, cu[post[r] + 1] - cu[post[r]] + length[r]}, at[MAX_REPLY];
    size_t n = (size_t)seq[1], from = n - (size_t)length[r];
    float *all = check_random(c, n * row), *out = check_output(c, n * heads * dim);
    memcpy(all, posts + (size_t)cu[post[r]] * row, from * row * sizeof *all);
    memcpy(qkv + (size_t)r * row, all + (n - 1) * row, (size_t)row * sizeof *qkv);
    for (int i = 0; i < length[r]; i++) at[i] = slot[r] * MAX_REPLY + i;
    store.qkv = all + from * row, store.cache = reply_cache, store.rows = length[r], store.row = at;
    b->kv_store(b, &store);
    b->attention(
        b, &(Attention){.sequences = {.cu_seqlens = seq, .count = 1, .tokens = seq[1], .max_len = seq[1]},
                        .qkv = all,
                        .prefix = prefix,
                        .prefix_len = prefix_len,
                        .out = out,
                        .heads = heads,
                        .kv_heads = kv_heads,
                        .head_dim = dim});
    memcpy(d.full + (size_t)r * heads * dim, out + (n - 1) * heads * dim, (size_t)heads * dim * sizeof *out);
  }
  d.op = (AttentionDecode){qkv,
                           post_cache,
                           cu,
                           post,
                           reply_cache,
                           slot,
                           length,
                           rows,
                           MAX_REPLY,
                           heads,
                           kv_heads,
                           dim,
                           check_output(c, (size_t)rows * heads * dim),
                           prefix,
                           prefix_len};
  return d;
}

static void decoding_equals_the_last_row_of_full_attention(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "attention_decode");
  static const int shapes[][3] = {{1, 1, 16}, {4, 4, 64}, {6, 2, 7}, {20, 1, 8}, {4, 2, 32}};
  for (int s = 0; s < 5; s++) {
    Decode d = make_decode(&c, shapes[s][0], shapes[s][1], shapes[s][2]);
    size_t n = (size_t)d.op.rows * shapes[s][0] * shapes[s][2];
    c.backend->attention_decode(c.backend, &d.op);
    double *want = NEW(&c.arena, double, n);
    for (size_t i = 0; i < n; i++) want[i] = d.full[i];
    check_close(&c, "out", d.op.out, want, n, 1e-5);
  }
  check_end(&c);
}

static void a_decoded_row_has_the_same_bits_alone(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "attention_decode alone");
  Decode d = make_decode(&c, 4, 2, 64);
  c.backend->attention_decode(c.backend, &d.op);
  for (int r = 0; r < d.op.rows; r++) {
    float *alone = check_output(&c, 256);
    AttentionDecode one = d.op;
    one.qkv = (const float *)d.op.qkv + (size_t)r * 512;
    one.post += r, one.slot += r, one.reply_len += r, one.rows = 1, one.out = alone;
    c.backend->attention_decode(c.backend, &one);
    check_same(&c, "out", alone, (const float *)d.op.out + (size_t)r * 256, 256);
  }
  check_end(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_ragged_shapes_match_the_reference_and_its_gradients),
      cmocka_unit_test(lengths_at_the_edges_of_the_blocks_match),
      cmocka_unit_test(a_prefix_stands_before_every_sequence),
      cmocka_unit_test(prefixes_of_every_length_match_at_the_edges_of_the_blocks),
      cmocka_unit_test(a_frozen_prefix_gets_no_gradient),
      cmocka_unit_test(an_empty_batch_leaves_the_prefix_gradient),
      cmocka_unit_test(branches_see_what_they_share_and_themselves),
      cmocka_unit_test(long_branches_match_at_the_edges_of_the_blocks),
      cmocka_unit_test(full_attention_sees_the_whole_sequence),
      cmocka_unit_test(large_scores_give_no_nan),
      cmocka_unit_test(no_token_sees_a_later_one_or_another_sequence),
      cmocka_unit_test(threads_change_no_bit),
      cmocka_unit_test(decoding_equals_the_last_row_of_full_attention),
      cmocka_unit_test(a_decoded_row_has_the_same_bits_alone),
      cmocka_unit_test(the_baseline_computes_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
