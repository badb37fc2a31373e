/* Attention in double precision, by the formula, and the checks against it, for the tests of the attention
 * kernels. */
#ifndef POPALM_ATTENTION_REFERENCE_H
#define POPALM_ATTENTION_REFERENCE_H

#include <limits.h>

#include "kernel_test.h"

struct AttentionShape {
  std::vector<int> lengths;
  int heads, kv_heads, head_dim;
  int prefix_len = 0;
  bool full = false;
  /* Of each sequence: the length of its shared part, then of its branches, which fill it; {}: a sequence
   * without. */
  std::vector<std::vector<int>> parts = {};
};

/* A packed batch of one shape with random queries, keys and values. */
class AttentionCase {
 public:
  AttentionCase(const AttentionShape &of, uint32_t test_case, float scale = 1)
      : shape(of),
        width(static_cast<size_t>(shape.heads + 2 * shape.kv_heads) * static_cast<size_t>(shape.head_dim)),
        out_width(static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.head_dim)),
        starts(starts_of(of)),
        cu_seqlens(starts),
        shared(shared_of(of)),
        branch(branches_of(of, starts)),
        tokens(static_cast<size_t>(starts.back())),
        random(test_case),
        qkv(random.normals(tokens * width, scale)),
        prefix_width(2 * static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_dim)),
        prefix(random.normals(static_cast<size_t>(shape.prefix_len) * prefix_width, scale)) {}

  /* Moves all queries up and all keys down, so that every score is far below 0. */
  void lower_scores(float by) {
    size_t d = static_cast<size_t>(shape.head_dim), queries = static_cast<size_t>(shape.heads) * d;
    size_t keys = static_cast<size_t>(shape.kv_heads) * d;
    for (size_t i = 0; i < qkv.count(); i++) {
      size_t column = i % width;
      float move = column < queries ? by : column < queries + keys ? -by : 0.0f;
      qkv[i] = to_bf16(to_float(qkv[i]) + move);
    }
    for (size_t i = 0; i < prefix.count(); i++)
      if (i % prefix_width < keys) prefix[i] = to_bf16(to_float(prefix[i]) - by);
  }

  Sequences sequences() const {
    int longest = 0;
    for (int length : shape.lengths) longest = length > longest ? length : longest;
    return {cu_seqlens.get(),
            static_cast<int>(shape.lengths.size()),
            static_cast<int>(tokens),
            longest,
            shape.parts.empty() ? nullptr : shared.get(),
            shape.parts.empty() ? nullptr : branch.get()};
  }

  Attention forward_op(bf16 *out, float *lse) const {
    return {sequences(),
            qkv.get(),
            shape.prefix_len ? prefix.get() : nullptr,
            shape.prefix_len,
            out,
            lse,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.full};
  }

  /* out [N, Hq d] and lse [Hq, N] */
  void forward(std::vector<double> *out, std::vector<double> *lse) const {
    out->assign(tokens * out_width, 0.0);
    lse->assign(tokens * static_cast<size_t>(shape.heads), 0.0);
    each_row([&](int begin, int i, int h, const std::vector<double> &p, double row_lse) {
      for (size_t j = 0; j < p.size(); j++)
        for (int c = 0; c < shape.head_dim; c++)
          (*out)[out_at(begin + i, h, c)] += p[j] * number(value(begin, j, h)[c]);
      (*lse)[static_cast<size_t>(h) * tokens + static_cast<size_t>(begin + i)] = row_lse;
    });
  }

  /* dqkv [N, (Hq + 2 Hkv) d] for dout [N, Hq d]; adds to dprefix [prefix_len, 2 Hkv d], unless that
   * is null */
  std::vector<double> backward(const DeviceArray<bf16> &dout, std::vector<double> *dprefix) const {
    std::vector<double> dqkv(tokens * width, 0.0);
    double scale = 1 / sqrt(static_cast<double>(shape.head_dim));
    each_row([&](int begin, int i, int h, const std::vector<double> &p, double) {
      std::vector<double> dp(p.size(), 0.0);
      double delta = 0;
      for (size_t j = 0; j < p.size(); j++) {
        for (int c = 0; c < shape.head_dim; c++)
          dp[j] += number(dout[out_at(begin + i, h, c)]) * number(value(begin, j, h)[c]);
        delta += p[j] * dp[j];
      }
      for (size_t j = 0; j < p.size(); j++) {
        double ds = p[j] * (dp[j] - delta) * scale;
        const bf16 *k = key(begin, j, h);
        for (int c = 0; c < shape.head_dim; c++) dqkv[at(begin + i, h, c)] += ds * number(k[c]);
        if (in_prefix(j) && !dprefix) continue;
        double *dk = in_prefix(j) ? dprefix->data() + (k - prefix.get()) : dqkv.data() + (k - qkv.get());
        for (int c = 0; c < shape.head_dim; c++) {
          dk[c] += ds * number(qkv[at(begin + i, h, c)]);
          dk[shape.kv_heads * shape.head_dim + c] += p[j] * number(dout[out_at(begin + i, h, c)]);
        }
      }
    });
    return dqkv;
  }

  size_t at(int token, int head, int column) const {
    return static_cast<size_t>(token) * width + static_cast<size_t>(head * shape.head_dim + column);
  }
  size_t out_at(int token, int head, int column) const {
    return static_cast<size_t>(token) * out_width + static_cast<size_t>(head * shape.head_dim + column);
  }

  const AttentionShape shape;
  const size_t width, out_width;
  const std::vector<int> starts;
  const DeviceArray<int> cu_seqlens, shared, branch;
  const size_t tokens;
  TestRandom random;
  DeviceArray<bf16> qkv;
  const size_t prefix_width;
  DeviceArray<bf16> prefix;

 private:
  static std::vector<int> starts_of(const AttentionShape &of) {
    std::vector<int> sums(1, 0);
    for (int length : of.lengths) sums.push_back(sums.back() + length);
    return sums;
  }

  static std::vector<int> shared_of(const AttentionShape &of) {
    std::vector<int> shared;
    for (const std::vector<int> &parts : of.parts) shared.push_back(parts.empty() ? 0 : parts[0]);
    return shared;
  }

  static std::vector<int> branches_of(const AttentionShape &of, const std::vector<int> &starts) {
    std::vector<int> branch;
    for (size_t b = 0; b < of.parts.size(); b++) {
      int at = starts[b];
      for (size_t i = 0; i < of.parts[b].size(); i++) {
        branch.insert(branch.end(), static_cast<size_t>(of.parts[b][i]), at);
        at += of.parts[b][i];
      }
      branch.insert(branch.end(), static_cast<size_t>(starts[b + 1] - at), at); /* without parts */
    }
    return branch;
  }

  /* Whether token i of sequence b sees its token j. */
  bool sees(size_t b, int i, int j) const {
    if (shape.full || shape.parts.empty()) return shape.full || j <= i;
    return j <= i && (j < shared[b] || starts[b] + j >= branch[static_cast<size_t>(starts[b] + i)]);
  }

  bool in_prefix(size_t j) const { return j < static_cast<size_t>(shape.prefix_len); }

  /* Key j of those that query head h of the sequence from `begin` on sees, and its value. */
  const bf16 *key(int begin, size_t j, int h) const {
    int head = h / (shape.heads / shape.kv_heads);
    if (in_prefix(j)) return prefix.get() + j * prefix_width + static_cast<size_t>(head * shape.head_dim);
    size_t token = static_cast<size_t>(begin) + j - static_cast<size_t>(shape.prefix_len);
    return qkv.get() + at(static_cast<int>(token), shape.heads + head, 0);
  }
  const bf16 *value(int begin, size_t j, int h) const {
    return key(begin, j, h) + shape.kv_heads * shape.head_dim;
  }

  /* body(begin, i, head, probabilities [prefix_len + length, causal: prefix_len + i + 1], lse) for every
   * query; 0 for a key that it does not see */
  template <typename Body>
  void each_row(Body body) const {
    double scale = 1 / sqrt(static_cast<double>(shape.head_dim));
    for (size_t b = 0; b < shape.lengths.size(); b++)
      for (int h = 0; h < shape.heads; h++)
        for (int i = 0; i < shape.lengths[b]; i++) {
          int begin = starts[b];
          std::vector<double> p(
              static_cast<size_t>(shape.prefix_len + (shape.full ? shape.lengths[b] : i + 1)), 0.0);
          double highest = -INFINITY, sum = 0;
          for (size_t j = 0; j < p.size(); j++) {
            double &s = p[j];
            if (!in_prefix(j) && !sees(b, i, static_cast<int>(j) - shape.prefix_len)) {
              s = -INFINITY;
              continue;
            }
            for (int c = 0; c < shape.head_dim; c++)
              s += number(qkv[at(begin + i, h, c)]) * number(key(begin, j, h)[c]);
            s *= scale;
            highest = s > highest ? s : highest;
          }
          for (double &s : p) sum += s = exp(s - highest);
          for (double &s : p) s /= sum;
          body(begin, i, h, p, highest + log(sum));
        }
  }
};

/* What the backward pass takes besides the batch: out and lse of the forward pass, a gradient, and room for
 * the result. */
struct BackwardArrays {
  explicit BackwardArrays(AttentionCase &c)
      : out(c.tokens * c.out_width),
        dout(c.random.normals(out.count())),
        dqkv(c.qkv.count()),
        lse(c.tokens * static_cast<size_t>(c.shape.heads)) {
    std::vector<double> exact_out, exact_lse;
    c.forward(&exact_out, &exact_lse);
    for (size_t i = 0; i < exact_out.size(); i++) out[i] = to_bf16(static_cast<float>(exact_out[i]));
    for (size_t i = 0; i < exact_lse.size(); i++) lse[i] = static_cast<float>(exact_lse[i]);
  }

  AttentionBackward op(const AttentionCase &c, bf16 *dprefix) const {
    const AttentionShape &shape = c.shape;
    return {c.sequences(),  c.qkv.get(),    c.prefix.get(), out.get(),        dout.get(),
            lse.get(),      dqkv.get(),     dprefix,        shape.prefix_len, shape.heads,
            shape.kv_heads, shape.head_dim, shape.full};
  }

  DeviceArray<bf16> out, dout, dqkv;
  DeviceArray<float> lse;
};

/* launch(op) runs the kernel; scale: of the case's numbers */
template <typename Launch>
void check_forward(const AttentionCase &c, float scale, Launch launch) {
  std::vector<double> want_out, want_lse;
  c.forward(&want_out, &want_lse);
  DeviceArray<bf16> out(want_out.size());
  DeviceArray<float> lse(want_lse.size());
  std::vector<bf16> first;
  FOR_EACH_SCHEDULE {
    out.poison();
    lse.poison();
    Attention op = c.forward_op(out.get(), lse.get());
    launch(&op);
    expect_close("lse", lse.get(), want_lse, 1e-5, 1e-4);
    expect_close("out", out.get(), want_out, 8e-3,
                 8e-3 * static_cast<double>(scale)); /* P is rounded to bf16 */
    if (first.empty()) first.assign(out.get(), out.get() + out.count());
    expect_same_bits("out", out.get(), first);
  }
}

/* Sequences with branches of random lengths among plain ones: of three branches some are of one token. */
static inline AttentionShape random_branches(uint32_t test_case, int longest, int heads, int kv_heads,
                                             int head_dim, int prefix_len = 0) {
  TestRandom random(test_case);
  AttentionShape shape = {{}, heads, kv_heads, head_dim, prefix_len};
  for (int b = 0; b < 4; b++) {
    std::vector<int> parts;
    int length = b == 3 ? random.below(longest) : 0;
    for (int i = 0; i < 4 && b < 3; i++) {
      parts.push_back(i == 0 ? b * random.below(longest / 2)
                             : 1 + random.below(2) *
                                       random.below(longest / 2)); /* the first has no shared part */
      length += parts.back();
    }
    shape.lengths.push_back(length);
    shape.parts.push_back(parts);
  }
  return shape;
}

/* Each branch behind the shared part as a sequence of its own gives the same rows: launch(op) runs the
 * kernel. */
template <typename Launch>
void check_separate_sequences(const AttentionShape &shape, uint32_t test_case, Launch launch) {
  AttentionCase c(shape, test_case);
  AttentionShape apart = {{}, shape.heads, shape.kv_heads, shape.head_dim};
  std::vector<int> from; /* the token of c that each token apart is */
  for (size_t b = 0; b < shape.lengths.size(); b++) {
    int shared = shape.parts[b][0], at = c.starts[b] + shared;
    for (size_t i = 1; i < shape.parts[b].size(); i++) {
      for (int t = 0; t < shared; t++) from.push_back(c.starts[b] + t);
      for (int t = 0; t < shape.parts[b][i]; t++) from.push_back(at++);
      apart.lengths.push_back(shared + shape.parts[b][i]);
    }
  }
  AttentionCase separate(apart, test_case);
  for (size_t i = 0; i < separate.qkv.count(); i++)
    separate.qkv[i] = c.qkv[static_cast<size_t>(from[i / c.width]) * c.width + i % c.width];
  DeviceArray<bf16> out(c.tokens * c.out_width), out_apart(separate.tokens * c.out_width);
  Attention op = c.forward_op(out.get(), nullptr), op_apart = separate.forward_op(out_apart.get(), nullptr);
  launch(&op);
  launch(&op_apart);
  DeviceArray<bf16> rows(out_apart.count());
  std::vector<double> want;
  for (size_t i = 0; i < rows.count(); i++) {
    rows[i] = out[static_cast<size_t>(from[i / c.out_width]) * c.out_width + i % c.out_width];
    want.push_back(number(out_apart[i]));
  }
  expect_close("rows of branches", rows.get(), want, 8e-3, 8e-3);
}

/* cuda_attention_backward, whichever kernels it takes */
static inline void check_backward(AttentionCase &c, float scale = 1, int most_schedules = INT_MAX) {
  const AttentionShape &shape = c.shape;
  BackwardArrays a(c);
  DeviceArray<bf16> added_to(c.random.normals(c.prefix.count())), dprefix(c.prefix.count());
  std::vector<double> want_prefix;
  for (size_t i = 0; i < added_to.count(); i++) want_prefix.push_back(number(added_to[i]));
  std::vector<double> want = c.backward(a.dout, &want_prefix);
  std::vector<bf16> first, first_prefix;
  /* Sums of products of numbers of size 1, each factor rounded to bf16. */
  double absolute =
      0.02 * sqrt(static_cast<double>(shape.heads / shape.kv_heads)) * static_cast<double>(scale);
  double absolute_prefix = absolute * sqrt(static_cast<double>(1 + shape.lengths.size()));
  FOR_EACH_SCHEDULE {
    if (schedule_ >= most_schedules) break;
    a.dqkv.poison();
    for (size_t i = 0; i < dprefix.count(); i++) dprefix[i] = added_to[i];
    AttentionBackward op = a.op(c, dprefix.get());
    cuda_attention_backward(emulator_backend(), &op);
    expect_close("dqkv", a.dqkv.get(), want, 0.015, absolute);
    expect_close("dprefix", dprefix.get(), want_prefix, 0.015, absolute_prefix);
    if (first.empty()) first.assign(a.dqkv.get(), a.dqkv.get() + a.dqkv.count());
    if (first_prefix.empty()) first_prefix.assign(dprefix.get(), dprefix.get() + dprefix.count());
    expect_same_bits("dqkv", a.dqkv.get(), first);
    expect_same_bits("dprefix", dprefix.get(), first_prefix);
  }
}

#endif
