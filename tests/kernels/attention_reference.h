/* Attention in double precision, by the formula, for the tests of the attention kernels. */
#ifndef POPALM_ATTENTION_REFERENCE_H
#define POPALM_ATTENTION_REFERENCE_H

#include "kernel_test.h"

struct AttentionShape {
  std::vector<int> lengths;
  int heads, kv_heads, head_dim;
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
        tokens(static_cast<size_t>(starts.back())),
        random(test_case),
        qkv(random.normals(tokens * width, scale)) {}

  Sequences sequences() const {
    int longest = 0;
    for (int length : shape.lengths) longest = length > longest ? length : longest;
    return {cu_seqlens.get(), static_cast<int>(shape.lengths.size()), static_cast<int>(tokens), longest};
  }

  /* out [N, Hq d] and lse [Hq, N] */
  void forward(std::vector<double> *out, std::vector<double> *lse) const {
    out->assign(tokens * out_width, 0.0);
    lse->assign(tokens * static_cast<size_t>(shape.heads), 0.0);
    each_row([&](int begin, int i, int h, const std::vector<double> &p, double row_lse) {
      for (int j = 0; j <= i; j++)
        for (int c = 0; c < shape.head_dim; c++)
          (*out)[out_at(begin + i, h, c)] += p[static_cast<size_t>(j)] * value(begin + j, h, c);
      (*lse)[static_cast<size_t>(h) * tokens + static_cast<size_t>(begin + i)] = row_lse;
    });
  }

  /* dqkv [N, (Hq + 2 Hkv) d] for dout [N, Hq d] */
  std::vector<double> backward(const DeviceArray<bf16> &dout) const {
    std::vector<double> dqkv(tokens * width, 0.0);
    double scale = 1 / sqrt(static_cast<double>(shape.head_dim));
    int group = shape.heads / shape.kv_heads;
    each_row([&](int begin, int i, int h, const std::vector<double> &p, double) {
      size_t count = static_cast<size_t>(i) + 1;
      std::vector<double> dp(count, 0.0);
      double delta = 0;
      for (size_t j = 0; j < count; j++) {
        for (int c = 0; c < shape.head_dim; c++)
          dp[j] += number(dout[out_at(begin + i, h, c)]) * value(begin + static_cast<int>(j), h, c);
        delta += p[j] * dp[j];
      }
      for (size_t j = 0; j < count; j++) {
        double ds = p[j] * (dp[j] - delta) * scale;
        int token = begin + static_cast<int>(j), k = shape.heads + h / group, v = k + shape.kv_heads;
        for (int c = 0; c < shape.head_dim; c++) {
          dqkv[at(begin + i, h, c)] += ds * number(qkv[at(token, k, c)]);
          dqkv[at(token, k, c)] += ds * number(qkv[at(begin + i, h, c)]);
          dqkv[at(token, v, c)] += p[j] * number(dout[out_at(begin + i, h, c)]);
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
  const DeviceArray<int> cu_seqlens;
  const size_t tokens;
  TestRandom random;
  const DeviceArray<bf16> qkv;

 private:
  static std::vector<int> starts_of(const AttentionShape &of) {
    std::vector<int> sums(1, 0);
    for (int length : of.lengths) sums.push_back(sums.back() + length);
    return sums;
  }

  double value(int token, int h, int c) const {
    return number(qkv[at(token, shape.heads + shape.kv_heads + h / (shape.heads / shape.kv_heads), c)]);
  }

  /* body(begin, i, head, probabilities [i + 1], lse) for every query */
  template <typename Body>
  void each_row(Body body) const {
    double scale = 1 / sqrt(static_cast<double>(shape.head_dim));
    int group = shape.heads / shape.kv_heads;
    for (size_t b = 0; b < shape.lengths.size(); b++)
      for (int h = 0; h < shape.heads; h++)
        for (int i = 0; i < shape.lengths[b]; i++) {
          int begin = starts[b];
          std::vector<double> p(static_cast<size_t>(i) + 1, 0.0);
          double highest = -INFINITY, sum = 0;
          for (int j = 0; j <= i; j++) {
            double &s = p[static_cast<size_t>(j)];
            for (int c = 0; c < shape.head_dim; c++)
              s += number(qkv[at(begin + i, h, c)]) * number(qkv[at(begin + j, shape.heads + h / group, c)]);
            s *= scale;
            highest = s > highest ? s : highest;
          }
          for (double &s : p) sum += s = exp(s - highest);
          for (double &s : p) s /= sum;
          body(begin, i, h, p, highest + log(sum));
        }
  }
};

#endif
