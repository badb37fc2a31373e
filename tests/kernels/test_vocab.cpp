/* cuda/vocab.cu and cuda/convert.cu on the emulator against double precision. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct VocabCase {
  VocabCase(int rows_, int hidden_, int vocab_, uint32_t test_case, float scale)
      : rows(rows_),
        hidden_size(hidden_),
        vocab(vocab_),
        random(test_case),
        hidden(random.normals(size(rows) * size(hidden_size), scale)),
        weight(random.normals(size(vocab) * size(hidden_size))),
        targets(size(rows)) {
    for (size_t r = 0; r < size(rows); r++)
      targets[r] = r == 0 ? 0 : r == 1 ? vocab - 1 : random.below(vocab);
    p.resize(size(rows) * size(vocab));
    logits.resize(p.size());
    for (size_t r = 0; r < size(rows); r++) softmax(r);
  }

  void softmax(size_t r) {
    double *z = &logits[r * size(vocab)], top = -INFINITY, sum = 0, h = 0;
    for (size_t j = 0; j < size(vocab); j++) {
      z[j] = 0;
      for (size_t i = 0; i < size(hidden_size); i++)
        z[j] += number(hidden[r * size(hidden_size) + i]) * number(weight[j * size(hidden_size) + i]);
      top = fmax(top, z[j]);
    }
    for (size_t j = 0; j < size(vocab); j++) sum += exp(z[j] - top);
    for (size_t j = 0; j < size(vocab); j++) {
      double log_p = z[j] - top - log(sum);
      p[r * size(vocab) + j] = exp(log_p);
      h -= exp(log_p) * log_p;
    }
    logprob.push_back(z[size(targets[r])] - top - log(sum));
    entropy.push_back(h);
  }

  int rows, hidden_size, vocab;
  TestRandom random;
  DeviceArray<bf16> hidden, weight;
  DeviceArray<int32_t> targets;
  std::vector<double> logits, p, logprob, entropy;
};

static void check_forward(int rows, int hidden, int vocab, uint32_t test_case, float scale, int runs) {
  VocabCase c(rows, hidden, vocab, test_case, scale);
  DeviceArray<float> logprob(size(rows)), entropy(size(rows)), logits(size(rows) * size(vocab));
  for (int i = 0; i < runs; i++) {
    emulator_schedule(schedule_number(i));
    logprob.poison(), entropy.poison(), logits.poison();
    Vocab op = {c.hidden.get(), c.weight.get(), c.targets.get(), logprob.get(), entropy.get(),
                rows,           hidden,         vocab,           WEIGHT_NATIVE};
    cuda_vocab(emulator_backend(), &op);
    expect_close("logprob", logprob.get(), c.logprob, 1e-5, 2e-5);
    expect_close("entropy", entropy.get(), c.entropy, 1e-4, 2e-5);
    VocabLogits sampler = {c.hidden.get(), c.weight.get(), logits.get(), rows, hidden, vocab, WEIGHT_NATIVE};
    cuda_vocab_logits(emulator_backend(), &sampler);
    expect_close("logits", logits.get(), c.logits, 1e-5, 1e-4);
  }
}

static void check_backward(int rows, int hidden, int vocab, bool entropy, uint32_t test_case, int runs) {
  VocabCase c(rows, hidden, vocab, test_case, 0.5f);
  size_t H = size(hidden), V = size(vocab);
  DeviceArray<float> d(c.random.normals_f32(size(rows))), de(c.random.normals_f32(size(rows))),
      logprob(size(rows));
  std::vector<bf16> start = c.random.normals(V * H);
  std::vector<double> dhidden_want(size(rows) * H), dweight_want(V * H);
  for (size_t i = 0; i < dweight_want.size(); i++) dweight_want[i] = number(start[i]);
  for (size_t r = 0; r < size(rows); r++)
    for (size_t j = 0; j < V; j++) {
      double p = c.p[r * V + j], g = -p * number(d[r]);
      if (entropy) g -= number(de[r]) * p * (log(p) + c.entropy[r]);
      if (j == size(c.targets[r])) g += number(d[r]);
      for (size_t i = 0; i < H; i++) {
        dhidden_want[r * H + i] += g * number(c.weight[j * H + i]);
        dweight_want[j * H + i] += g * number(c.hidden[r * H + i]);
      }
    }
  DeviceArray<bf16> dhidden(dhidden_want.size());
  std::vector<bf16> first_hidden, first_weight;
  for (int i = 0; i < runs; i++) {
    emulator_schedule(schedule_number(i));
    DeviceArray<bf16> dweight(start);
    dhidden.poison(), logprob.poison();
    VocabBackward op = {
        c.hidden.get(), c.weight.get(), c.targets.get(), d.get(), entropy ? de.get() : nullptr,
        logprob.get(),  dhidden.get(),  dweight.get(),   rows,    hidden,
        vocab,          WEIGHT_NATIVE};
    cuda_vocab_backward(emulator_backend(), &op);
    expect_close("logprob", logprob.get(), c.logprob, 1e-5, 2e-5);
    expect_close("dhidden", dhidden.get(), dhidden_want, 1e-2, 1.5e-2); /* dlogits are rounded to bf16 */
    expect_close("dweight", dweight.get(), dweight_want, 1e-2, 1.5e-2);
    if (first_hidden.empty()) {
      first_hidden.assign(dhidden.get(), dhidden.get() + dhidden.count());
      first_weight.assign(dweight.get(), dweight.get() + dweight.count());
    }
    expect_same_bits("dhidden", dhidden.get(), first_hidden);
    expect_same_bits("dweight", dweight.get(), first_weight);
  }
}

static void logprob_and_entropy_of_any_vocabulary(void **) {
  const int sizes[] = {2, 7, 64, 65, 513};
  uint32_t test_case = 0;
  for (int vocab : sizes) check_forward(3, 16, vocab, test_case++, 1, schedules);
  check_forward(2, 8, 4099, 10, 1, 3); /* more than one tile of a block */
}

static void large_logits_stay_finite(void **) { check_forward(4, 64, 100, 11, 8, schedules); }

static void gradient_of_any_vocabulary(void **) {
  check_backward(4, 16, 37, true, 20, schedules);
  check_backward(5, 8, 130, false, 21, schedules);
}

/* Reads and writes of neighbouring tiles share memory. */
static void gradient_over_several_tiles_of_the_same_row(void **) {
  check_backward(2, 8, 6200, true, 22, schedules);
}

/* 64 MiB hold fewer than 129 rows of 131200 logits. */
static void chunks_sum_the_weight_gradient_once(void **) {
#if defined(__SANITIZE_THREAD__)
  skip(); /* too large for it */
#endif
  const int rows = 130, hidden = 2, vocab = 131200;
  TestRandom random(30);
  DeviceArray<bf16> h(random.normals(rows * hidden)), w(random.normals(size(vocab) * hidden, 0.1f));
  DeviceArray<int32_t> targets(rows);
  DeviceArray<float> d(rows), logprob(rows), again(rows);
  for (size_t r = 0; r < rows; r++)
    targets[r] = static_cast<int32_t>(r), d[r] = 0.5f + 0.01f * static_cast<float>(r);
  DeviceArray<bf16> dhidden(rows * hidden), dweight(std::vector<bf16>(size(vocab) * hidden, bf16{0}));
  emulator_schedule(schedule_number(0));
  VocabBackward op = {h.get(),       w.get(),       targets.get(), d.get(), nullptr, logprob.get(),
                      dhidden.get(), dweight.get(), rows,          hidden,  vocab,   WEIGHT_NATIVE};
  cuda_vocab_backward(emulator_backend(), &op);
  Vocab forward = {h.get(), w.get(), targets.get(), again.get(), nullptr, rows, hidden, vocab, WEIGHT_NATIVE};
  cuda_vocab(emulator_backend(), &forward);
  expect_same_bits("logprob", again.get(), std::vector<float>(logprob.get(), logprob.get() + rows));
  /* A row's gradient is its own weight, less the mean weight, times dlogprob. Weights are normal with
   * variance 0.01, so under probabilities that grow as e^(h w) their mean is 0.01 h. Rows of the vocabulary
   * that are no target have next to no gradient. */
  std::vector<double> dweight_want(dweight.count(), 0.0), dhidden_want(dhidden.count());
  for (size_t i = 0; i < dhidden_want.size(); i++) {
    double scale = number(d[i / hidden]);
    dweight_want[i] = scale * number(h[i]);
    dhidden_want[i] = scale * (number(w[i]) - 0.01 * number(h[i]));
  }
  expect_close("dweight", dweight.get(), dweight_want, 5e-3, 1e-2);
  expect_close("dhidden", dhidden.get(), dhidden_want, 1e-2, 1e-2);
}

static void no_rows_do_nothing(void **) {
  Vocab op = {};
  op.hidden_size = 8, op.vocab = 9;
  cuda_vocab(emulator_backend(), &op);
  VocabBackward backward = {};
  backward.hidden_size = 8, backward.vocab = 9;
  cuda_vocab_backward(emulator_backend(), &backward);
}

static void conversions_round_to_nearest(void **) {
  TestRandom random(40);
  std::vector<float> values = random.normals_f32(1000, 50);
  DeviceArray<float> wide(values), back(1000);
  DeviceArray<bf16> narrow(1000);
  DeviceArray<int32_t> whole(1000);
  Backend *backend = emulator_backend();
  FOR_EACH_SCHEDULE {
    narrow.poison(), back.poison(), whole.poison();
    cuda_convert(backend, narrow.get(), BF16, wide.get(), F32, 1000);
    cuda_convert(backend, back.get(), F32, narrow.get(), BF16, 1000);
    cuda_convert(backend, whole.get(), I32, wide.get(), F32, 1000);
    for (size_t i = 0; i < 1000; i++) {
      assert_int_equal(narrow[i].bits, to_bf16(values[i]).bits);
      assert_true(back[i] == to_float(narrow[i]));
      assert_int_equal(whole[i], static_cast<int32_t>(values[i]));
    }
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(logprob_and_entropy_of_any_vocabulary),
      cmocka_unit_test(large_logits_stay_finite),
      cmocka_unit_test(gradient_of_any_vocabulary),
      cmocka_unit_test(gradient_over_several_tiles_of_the_same_row),
      cmocka_unit_test(chunks_sum_the_weight_gradient_once),
      cmocka_unit_test(no_rows_do_nothing),
      cmocka_unit_test(conversions_round_to_nearest),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
