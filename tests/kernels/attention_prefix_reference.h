/* Attention with prefix keys in double precision, by the formula, for the tests of the Hopper kernels. */
#ifndef POPALM_ATTENTION_PREFIX_REFERENCE_H
#define POPALM_ATTENTION_PREFIX_REFERENCE_H

#include "kernel_test.h"

struct PrefixShape {
  std::vector<int> lengths;
  int heads, kv_heads, head_dim, prefix_len;
};

class PrefixCase {
 public:
  PrefixCase(const PrefixShape &of, uint32_t test_case, float scale = 1)
      : shape(of),
        d(static_cast<size_t>(of.head_dim)),
        width(static_cast<size_t>(of.heads + 2 * of.kv_heads) * d),
        out_width(static_cast<size_t>(of.heads) * d),
        starts(starts_of(of)),
        cu_seqlens(starts),
        tokens(static_cast<size_t>(starts.back())),
        random(test_case),
        qkv(random.normals(tokens * width, scale)),
        prefix(random.normals(static_cast<size_t>(of.prefix_len) * 2 * static_cast<size_t>(of.kv_heads) * d,
                              scale)) {}

  Sequences sequences() const {
    int longest = 0;
    for (int length : shape.lengths) longest = length > longest ? length : longest;
    return {cu_seqlens.get(), static_cast<int>(shape.lengths.size()), static_cast<int>(tokens), longest};
  }

  Attention forward_op(bf16 *out, float *lse) const {
    Attention op = {};
    op.sequences = sequences();
    op.qkv = qkv.get();
    op.prefix = shape.prefix_len ? prefix.get() : nullptr;
    op.prefix_len = shape.prefix_len;
    op.out = out;
    op.lse = lse;
    op.heads = shape.heads;
    op.kv_heads = shape.kv_heads;
    op.head_dim = shape.head_dim;
    return op;
  }

  /* out [N, Hq d] and lse [Hq, N] */
  void forward(std::vector<double> *out, std::vector<double> *lse) const {
    out->assign(tokens * out_width, 0.0);
    lse->assign(tokens * static_cast<size_t>(shape.heads), 0.0);
    each_row([&](size_t token, size_t begin, size_t h, const std::vector<double> &p, double row_lse) {
      for (size_t j = 0; j < p.size(); j++) {
        const bf16 *v = row_of(begin, j, h, 1);
        for (size_t c = 0; c < d; c++) (*out)[token * out_width + h * d + c] += p[j] * number(v[c]);
      }
      (*lse)[h * tokens + token] = row_lse;
    });
  }

  /* dqkv for dout [N, Hq d]; the gradients of the prefix are left out. */
  std::vector<double> backward(const DeviceArray<bf16> &dout) const {
    std::vector<double> dqkv(tokens * width, 0.0);
    double scale = 1 / sqrt(static_cast<double>(d));
    size_t heads = static_cast<size_t>(shape.heads), kv_heads = static_cast<size_t>(shape.kv_heads);
    const bf16 *all = qkv.get(), *gradient = dout.get();
    each_row([&](size_t token, size_t begin, size_t h, const std::vector<double> &p, double) {
      std::vector<double> dp(p.size(), 0.0);
      const bf16 *q = all + token * width + h * d, *g = gradient + token * out_width + h * d;
      double delta = 0;
      for (size_t j = 0; j < p.size(); j++) {
        const bf16 *v = row_of(begin, j, h, 1);
        for (size_t c = 0; c < d; c++) dp[j] += number(g[c]) * number(v[c]);
        delta += p[j] * dp[j];
      }
      for (size_t j = 0; j < p.size(); j++) {
        double ds = p[j] * (dp[j] - delta) * scale;
        const bf16 *k = row_of(begin, j, h, 0);
        for (size_t c = 0; c < d; c++) dqkv[token * width + h * d + c] += ds * number(k[c]);
        if (j < static_cast<size_t>(shape.prefix_len)) continue;
        size_t key = (begin + j - static_cast<size_t>(shape.prefix_len)) * width +
                     (heads + h / (heads / kv_heads)) * d;
        for (size_t c = 0; c < d; c++) {
          dqkv[key + c] += ds * number(q[c]);
          dqkv[key + kv_heads * d + c] += p[j] * number(g[c]);
        }
      }
    });
    return dqkv;
  }

  const PrefixShape shape;
  const size_t d, width, out_width;
  const std::vector<int> starts;
  const DeviceArray<int> cu_seqlens;
  const size_t tokens;
  TestRandom random;
  const DeviceArray<bf16> qkv, prefix;

 private:
  static std::vector<int> starts_of(const PrefixShape &of) {
    std::vector<int> sums(1, 0);
    for (int length : of.lengths) sums.push_back(sums.back() + length);
    return sums;
  }

  /* Key (part 0) or value (part 1) j of query head h in the sequence from begin on: the prefix's come first.
   */
  const bf16 *row_of(size_t begin, size_t j, size_t h, size_t part) const {
    size_t heads = static_cast<size_t>(shape.heads), kv_heads = static_cast<size_t>(shape.kv_heads);
    size_t kv = h / (heads / kv_heads) + part * kv_heads, prefix_len = static_cast<size_t>(shape.prefix_len);
    if (j < prefix_len) return prefix.get() + j * 2 * kv_heads * d + kv * d;
    return qkv.get() + (begin + j - prefix_len) * width + (heads + kv) * d;
  }

  /* body(token, begin, head, probabilities of all keys seen, lse) for every query */
  template <typename Body>
  void each_row(Body body) const {
    double scale = 1 / sqrt(static_cast<double>(d));
    for (size_t b = 0; b < shape.lengths.size(); b++)
      for (size_t h = 0; h < static_cast<size_t>(shape.heads); h++)
        for (size_t i = 0; i < static_cast<size_t>(shape.lengths[b]); i++) {
          size_t begin = static_cast<size_t>(starts[b]), token = begin + i;
          std::vector<double> p(i + 1 + static_cast<size_t>(shape.prefix_len), 0.0);
          const bf16 *q = qkv.get() + token * width + h * d;
          double highest = -INFINITY, sum = 0;
          for (size_t j = 0; j < p.size(); j++) {
            const bf16 *k = row_of(begin, j, h, 0);
            for (size_t c = 0; c < d; c++) p[j] += number(q[c]) * number(k[c]);
            p[j] *= scale;
            highest = p[j] > highest ? p[j] : highest;
          }
          for (double &s : p) sum += s = exp(s - highest);
          for (double &s : p) s /= sum;
          body(token, begin, h, p, highest + log(sum));
        }
  }
};

#endif
