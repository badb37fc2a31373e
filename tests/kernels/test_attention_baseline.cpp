/* What `popalm bench` compares attention with computes attention: on the emulator the portable kernels beside
 * Hopper's, on a GPU cuBLAS and cuDNN, too, where their libraries are. */
#include <map>
#include <string>

#include "attention_reference.h"

/* Of one length, which is a multiple of a tile or not, and of several. The thread sanitizer sees as much in
 * little. */
#ifdef EMULATOR_RACES
static const std::vector<int> batches[] = {{17, 33}};
#else
static const std::vector<int> batches[] = {{128, 128}, {70, 70, 70}, {17, 130, 64}};
#endif

static std::vector<AttentionShape> shapes() {
  std::vector<AttentionShape> out;
  for (const std::vector<int> &lengths : batches)
    for (bool full : {false, true}) {
      out.push_back({lengths, 4, 2, 64, 0, full});
      out.push_back({lengths, 2, 2, 128, 0, full});
    }
  return out;
}

/* Every baseline of every shape; counts them by name. */
template <typename Run>
static void for_each_baseline(std::map<std::string, int> *counts, Run run) {
  uint32_t test_case = 0;
  for (const AttentionShape &shape : shapes()) {
    AttentionCase c(shape, test_case++);
    Baseline is;
    for (int which = 0; run(c, which, &is); which++) {
      if (is.failed) fail_msg("%s refused a shape that it takes", is.name);
      (*counts)[is.name]++;
    }
  }
}

/* On Hopper the portable kernel stands beside that for the shapes that it takes, and the libraries take every
 * shape. */
static void expect_counts(const std::map<std::string, int> &counts) {
  for (const auto &baseline : counts)
    print_message("%s: %d shapes\n", baseline.first.c_str(), baseline.second);
  if (!cuda_state(emulator_backend())->hopper) return;
  assert_true(counts.count("portable kernel"));
  for (const auto &baseline : counts)
    assert_true(baseline.first == "portable kernel" || baseline.second == static_cast<int>(shapes().size()));
}

/* Scores stored in bf16 are good to 2^-9, and so are their exponentials. */
static void every_baseline_computes_attention(void **) {
  std::map<std::string, int> counts;
  for_each_baseline(&counts, [](AttentionCase &c, int which, Baseline *is) {
    DeviceArray<bf16> out(c.tokens * c.out_width);
    DeviceArray<float> statistics(c.tokens * static_cast<size_t>(c.shape.heads));
    Attention op = c.forward_op(out.get(), statistics.get());
    if (!cuda_attention_baseline(emulator_backend(), &op, which, is)) return false;
    if (is->failed) return true;
    std::vector<double> want, lse;
    c.forward(&want, &lse);
    expect_close(is->name, out.get(), want, 0.03, 0.03);
    return true;
  });
  expect_counts(counts);
}

static void every_baseline_computes_the_gradient(void **) {
  std::map<std::string, int> counts;
  for_each_baseline(&counts, [](AttentionCase &c, int which, Baseline *is) {
    BackwardArrays a(c);
    AttentionBackward op = a.op(c, nullptr);
    if (!cuda_attention_backward_baseline(emulator_backend(), &op, which, is)) return false;
    if (is->failed) return true;
    expect_close(is->name, a.dqkv.get(), c.backward(a.dout, nullptr), 0.015, 0.04);
    return true;
  });
  expect_counts(counts);
}

static void no_library_is_asked_for_branches_or_a_prefix(void **) {
  Baseline is = {};
  AttentionCase branches({{20}, 1, 1, 64, 0, false, {{4, 8, 8}}}, 50), prefix({{20}, 1, 1, 64, 9}, 51);
  bool hopper = cuda_state(emulator_backend())->hopper;
  for (const AttentionCase *c : {&branches, &prefix}) {
    DeviceArray<bf16> out(c->tokens * c->out_width);
    Attention op = c->forward_op(out.get(), nullptr);
    int count = 0;
    while (cuda_attention_baseline(emulator_backend(), &op, count, &is)) count++;
    assert_true(count == 0 || (hopper && count == 1 && strcmp(is.name, "portable kernel") == 0));
  }
}

/* Statistics from [heads, tokens] to [sequence, head, row]; lengths and offsets of sequences, an empty one
 * among them. */
static void rows_are_unpacked(void **) {
  const std::vector<int> starts = {0, 130, 130, 131, 200};
  const int count = 4, heads = 3, tokens = 200, max_len = 130;
  DeviceArray<int> cu(starts);
  DeviceArray<float> lse(heads * tokens), stats(count * heads * max_len);
  DeviceArray<int32_t> lengths(count);
  DeviceArray<int64_t> qkv_offsets(count + 1), out_offsets(count + 1);
  for (size_t i = 0; i < lse.count(); i++) lse[i] = static_cast<float>(i);
  for (int what = 1; what < 4; what++) { /* statistics, lengths, both */
    stats.poison(), lengths.poison(), qkv_offsets.poison(), out_offsets.poison();
    cuda_unpack_rows(emulator_backend(), {cu.get(), what & 1 ? lse.get() : nullptr, stats.get(),
                                          what & 2 ? lengths.get() : nullptr, qkv_offsets.get(),
                                          out_offsets.get(), count, heads, tokens, max_len, 1 << 30, 7});
    device_wait();
    for (int b = 0; b <= count && what & 2; b++) {
      size_t at = static_cast<size_t>(b), begin = static_cast<size_t>(starts[at]);
      assert_true(qkv_offsets[at] == static_cast<int64_t>(begin) << 30 && out_offsets[at] == 7 * starts[at]);
      if (b < count) assert_int_equal(lengths[at], starts[at + 1] - starts[at]);
    }
    for (int i = 0; i < count * heads * max_len && what & 1; i++) {
      size_t b = static_cast<size_t>(i / max_len / heads);
      int h = i / max_len % heads, t = i % max_len, begin = starts[b];
      float want = t < starts[b + 1] - begin ? static_cast<float>(h * tokens + begin + t) : 0;
      assert_true(stats[static_cast<size_t>(i)] == want);
    }
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_baseline_computes_attention),
      cmocka_unit_test(every_baseline_computes_the_gradient),
      cmocka_unit_test(no_library_is_asked_for_branches_or_a_prefix),
      cmocka_unit_test(rows_are_unpacked),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
