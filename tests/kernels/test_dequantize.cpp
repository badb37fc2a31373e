/* cuda/dequantize.cu and the operations whose weights may stand in int8, on the emulator: the bits that bf16
 * weights of the same values give. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

/* fp16, written down from its definition. */
static double value_of_half(uint16_t half) {
  double sign = half & 0x8000 ? -1 : 1;
  int exponent = half >> 10 & 31, fraction = half & 0x3ff;
  return exponent ? sign * ldexp(1024 + fraction, exponent - 25) : sign * ldexp(fraction, -24);
}

/* A random matrix in blocks, and what it says, rounded to bf16. */
struct Int8Matrix {
  DeviceArray<unsigned char> blocks;
  DeviceArray<bf16> values;

  Int8Matrix(TestRandom *random, int rows, int columns)
      : blocks(size(rows) * size((columns + 31) / 32) * 34), values(size(rows) * size(columns)) {
    size_t row_blocks = size((columns + 31) / 32);
    for (size_t r = 0; r < size(rows); r++)
      for (size_t b = 0; b < row_blocks; b++) {
        unsigned char *block = &blocks[(r * row_blocks + b) * 34];
        /* normal scales of about 2^-12 .. 2^-5, now and then a subnormal one or zero */
        int exponent = random->below(8) ? 3 + random->below(8) : 0;
        int half = random->below(40) ? exponent << 10 | random->below(1024) : 0;
        block[0] = static_cast<unsigned char>(half), block[1] = static_cast<unsigned char>(half >> 8);
        for (size_t i = 0; i < 32; i++) {
          size_t column = b * 32 + i;
          int q = column < size(columns) ? random->below(256) - 128 : 0;
          block[2 + i] = static_cast<unsigned char>(q);
          if (column < size(columns))
            values[r * size(columns) + column] =
                to_bf16(static_cast<float>(value_of_half(static_cast<uint16_t>(half)) * q));
        }
      }
  }
};

static std::vector<bf16> bits_of(const DeviceArray<bf16> &array) {
  return std::vector<bf16>(array.get(), array.get() + array.count());
}

static const int shapes[][2] = {{0, 32}, {3, 0},  {1, 1},  {1, 7},   {2, 8},   {3, 31},
                                {5, 32}, {7, 33}, {4, 95}, {9, 160}, {31, 40}, {67, 129}};

static void dequantised_values_are_the_scales_times_the_bytes(void **) {
  uint32_t test_case = 0;
  for (const int *shape : shapes) {
    TestRandom random(test_case++);
    Int8Matrix m(&random, shape[0], shape[1]);
    DeviceArray<bf16> out(m.values.count());
    assert_int_equal(cuda_native_bytes(WEIGHT_INT8, shape[0], shape[1]), 2 * out.count());
    FOR_EACH_SCHEDULE {
      out.poison();
      const void *found =
          cuda_native_weight(emulator_backend(), m.blocks.get(), WEIGHT_INT8, shape[0], shape[1], out.get());
      assert_ptr_equal(found, out.get());
      expect_same_bits("out", out.get(), bits_of(m.values));
    }
  }
}

static void other_types_are_themselves(void **) {
  int nothing = 0;
  assert_int_equal(cuda_native_bytes(WEIGHT_NATIVE, 10, 10), 0);
  assert_int_equal(cuda_native_bytes(WEIGHT_BF16, 10, 10), 0);
  for (WeightType type : {WEIGHT_NATIVE, WEIGHT_BF16})
    assert_ptr_equal(cuda_native_weight(emulator_backend(), &nothing, type, 10, 10, nullptr), &nothing);
}

/* rows, in, out */
static const int products[][3] = {{0, 16, 8}, {1, 1, 1}, {3, 33, 10}, {17, 40, 25}, {5, 64, 70}, {2, 7, 130}};

static void linear_and_its_gradient_are_those_of_bf16(void **) {
  uint32_t test_case = 100;
  for (const int *shape : products) {
    int rows = shape[0], in = shape[1], out = shape[2];
    TestRandom random(test_case++);
    Int8Matrix m(&random, out, in);
    DeviceArray<bf16> x(random.normals(size(rows) * size(in))), bias(random.normals(size(out)));
    DeviceArray<bf16> dy(random.normals(size(rows) * size(out))), dx_start(random.normals(x.count()));
    std::vector<bf16> want[3];
    FOR_EACH_SCHEDULE {
      for (int int8 = 0; int8 < 2; int8++) {
        DeviceArray<bf16> y(dy.count()), dx(bits_of(dx_start)), dbias(bits_of(bias));
        Linear op = {};
        op.x = x.get(), op.bias = bias.get(), op.y = y.get();
        op.rows = rows, op.in = in, op.out = out;
        op.weight = int8 ? static_cast<const void *>(m.blocks.get()) : m.values.get();
        op.weight_type = int8 ? WEIGHT_INT8 : WEIGHT_NATIVE;
        cuda_linear(emulator_backend(), &op);
        LinearBackward back = {};
        back.x = x.get(), back.dy = dy.get(), back.dx = dx.get(), back.dbias = dbias.get();
        back.rows = rows, back.in = in, back.out = out, back.accumulate = true;
        back.weight = op.weight, back.weight_type = op.weight_type;
        cuda_linear_backward(emulator_backend(), &back);
        if (!int8) want[0] = bits_of(y), want[1] = bits_of(dx), want[2] = bits_of(dbias);
        expect_same_bits("y", y.get(), want[0]);
        expect_same_bits("dx", dx.get(), want[1]);
        expect_same_bits("dbias", dbias.get(), want[2]);
      }
    }
  }
}

/* rows, H, V */
static const int vocabularies[][3] = {{1, 8, 3}, {5, 33, 40}, {20, 40, 77}, {3, 72, 2100}};

static void the_vocabulary_is_that_of_bf16(void **) {
  uint32_t test_case = 200;
  for (const int *shape : vocabularies) {
    int rows = shape[0], hidden = shape[1], vocab = shape[2];
    TestRandom random(test_case++);
    Int8Matrix m(&random, vocab, hidden);
    DeviceArray<bf16> h(random.normals(size(rows) * size(hidden)));
    DeviceArray<int32_t> targets(size(rows));
    DeviceArray<float> dlogprob(random.normals_f32(size(rows)));
    for (size_t i = 0; i < size(rows); i++) targets[i] = random.below(vocab);
    std::vector<float> want[3], logits_want;
    std::vector<bf16> dhidden_want;
    for (int int8 = 0; int8 < 2; int8++) {
      const void *weight = int8 ? static_cast<const void *>(m.blocks.get()) : m.values.get();
      WeightType type = int8 ? WEIGHT_INT8 : WEIGHT_NATIVE;
      DeviceArray<float> logprob(size(rows)), entropy(size(rows)), again(size(rows));
      DeviceArray<float> logits(size(rows) * size(vocab));
      DeviceArray<bf16> dhidden(h.count());
      Vocab forward = {h.get(), weight, targets.get(), logprob.get(), entropy.get(),
                       rows,    hidden, vocab,         type};
      cuda_vocab(emulator_backend(), &forward);
      VocabBackward back = {};
      back.hidden = h.get(), back.weight = weight, back.weight_type = type, back.targets = targets.get();
      back.dlogprob = dlogprob.get(), back.logprob = again.get(), back.dhidden = dhidden.get();
      back.rows = rows, back.hidden_size = hidden, back.vocab = vocab;
      cuda_vocab_backward(emulator_backend(), &back);
      VocabLogits sampler = {h.get(), weight, logits.get(), rows, hidden, vocab, type};
      cuda_vocab_logits(emulator_backend(), &sampler);
      const DeviceArray<float> *outputs[] = {&logprob, &entropy, &again};
      for (int i = 0; i < 3; i++) {
        if (!int8) want[i].assign(outputs[i]->get(), outputs[i]->get() + size(rows));
        expect_same_bits("logprob, entropy", outputs[i]->get(), want[i]);
      }
      if (!int8) logits_want.assign(logits.get(), logits.get() + logits.count());
      if (!int8) dhidden_want = bits_of(dhidden);
      expect_same_bits("logits", logits.get(), logits_want);
      expect_same_bits("dhidden", dhidden.get(), dhidden_want);
    }
  }
}

static void embeddings_are_those_of_bf16(void **) {
  uint32_t test_case = 300;
  for (int hidden : {1, 8, 31, 40, 129})
    for (int with_positions = 0; with_positions < 2; with_positions++) {
      int rows = 23, vocab = 13, places = 7;
      TestRandom random(test_case++);
      Int8Matrix token(&random, vocab, hidden), position(&random, places, hidden);
      DeviceArray<int32_t> tokens(size(rows)), positions(size(rows));
      for (size_t i = 0; i < size(rows); i++)
        tokens[i] = random.below(vocab), positions[i] = random.below(places);
      std::vector<bf16> want;
      FOR_EACH_SCHEDULE {
        for (int int8 = 0; int8 < 2; int8++) {
          DeviceArray<bf16> out(size(rows) * size(hidden));
          Embedding op = {};
          op.tokens = tokens.get(), op.positions = positions.get(), op.out = out.get();
          op.rows = rows, op.hidden = hidden, op.vocab = vocab, op.max_positions = places;
          op.token_table = int8 ? static_cast<const void *>(token.blocks.get()) : token.values.get();
          op.table_type = int8 ? WEIGHT_INT8 : WEIGHT_NATIVE;
          if (with_positions)
            op.position_table =
                int8 ? static_cast<const void *>(position.blocks.get()) : position.values.get();
          cuda_embedding(emulator_backend(), &op);
          if (!int8) want = bits_of(out);
          expect_same_bits("out", out.get(), want);
        }
      }
    }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(dequantised_values_are_the_scales_times_the_bytes),
      cmocka_unit_test(other_types_are_themselves),
      cmocka_unit_test(linear_and_its_gradient_are_those_of_bf16),
      cmocka_unit_test(the_vocabulary_is_that_of_bf16),
      cmocka_unit_test(embeddings_are_those_of_bf16),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
