/* cuda/sample.cu on the emulator against the CPU backend: the same tokens. */
#include "kernel_test.h"

extern "C" {
#include "cpu/cpu.h"
}
namespace simd { /* its fast_exp is not that of the kernels */
#include "cpu/simd.h"
}

static const int capacity = 4096; /* of the kernel's list of candidates */

struct Cut {
  float temperature, top_p;
  int top_k;
};

/* Rows of logits and what the CPU backend draws from them. */
struct Case {
  Case(int rows_, int vocab_, const std::vector<float> &logits_, uint64_t seed)
      : rows(rows_), vocab(vocab_), logits(logits_), key{seed, RANDOM_TEST, 1} {
    for (int r = 0; r < rows; r++) sample.push_back(7 * r + 1), position.push_back(r % 5);
  }

  Sample operation(const Cut &cut) const {
    Sample op = {};
    op.rows = rows, op.vocab = vocab;
    op.temperature = cut.temperature, op.top_p = cut.top_p, op.top_k = cut.top_k;
    op.key = &key;
    return op;
  }

  int rows, vocab;
  std::vector<float> logits;
  RandomKey key;
  std::vector<int32_t> sample, position;
};

struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logprob;
};

static Backend *cpu() {
  static Backend *backend;
  if (!backend && cpu_backend_open(0, &backend)) fail_msg("no CPU backend");
  return backend;
}

static Drawn draw_on_cpu(const Case &c, const Cut &cut) {
  Drawn out = {std::vector<int32_t>(static_cast<size_t>(c.rows), -1),
               std::vector<float>(static_cast<size_t>(c.rows), -1)};
  std::vector<float> logits = c.logits;
  Sample op = c.operation(cut);
  op.logits = logits.data();
  op.sample = c.sample.data(), op.position = c.position.data();
  op.token = out.token.data(), op.logprob = out.logprob.data();
  cpu_sample(cpu(), &op);
  return out;
}

/* skew: elements by which the logits are off a 16-byte boundary. overwritten: what is left in their place. */
static Drawn draw(const Case &c, const Cut &cut, size_t skew = 0, std::vector<float> *overwritten = nullptr) {
  size_t rows = static_cast<size_t>(c.rows);
  DeviceArray<float> logits(c.logits.size() + skew), logprob(rows);
  DeviceArray<int32_t> sample(c.sample), position(c.position), token(rows);
  DeviceArray<RandomKey> key(std::vector<RandomKey>{c.key});
  for (size_t i = 0; i < c.logits.size(); i++) logits[skew + i] = c.logits[i];
  Sample op = c.operation(cut);
  op.logits = logits.get() + skew;
  op.key = key.get(), op.sample = sample.get(), op.position = position.get();
  op.token = token.get(), op.logprob = logprob.get();
  cuda_sample(emulator_backend(), &op);
  Drawn out;
  for (size_t r = 0; r < rows; r++) out.token.push_back(token[r]), out.logprob.push_back(logprob[r]);
  if (overwritten) overwritten->assign(op.logits, op.logits + c.logits.size());
  return out;
}

static void expect_the_same(const Case &c, const Cut &cut, const Drawn &got, const Drawn &want) {
  for (size_t r = 0; r < want.token.size(); r++) {
    if (got.token[r] != want.token[r])
      fail_msg("row %zu of %d logits at temperature %g, top_p %g, top_k %d: token %d, should be %d", r,
               c.vocab, number(cut.temperature), number(cut.top_p), cut.top_k, got.token[r], want.token[r]);
    bool close =
        fabs(number(got.logprob[r]) - number(want.logprob[r])) <= 1e-9 + 1e-6 * fabs(number(want.logprob[r]));
    if (!close && !(isnan(got.logprob[r]) && isnan(want.logprob[r])))
      fail_msg("row %zu of %d logits at temperature %g, top_p %g, top_k %d: logprob %.8g, should be %.8g", r,
               c.vocab, number(cut.temperature), number(cut.top_p), cut.top_k, number(got.logprob[r]),
               number(want.logprob[r]));
  }
}

static void check_everywhere(const Case &c, const Cut &cut) {
  Drawn want = draw_on_cpu(c, cut), first;
  FOR_EACH_SCHEDULE {
    Drawn got = draw(c, cut, static_cast<size_t>(schedule_ % 4));
    expect_the_same(c, cut, got, want);
    if (first.token.empty()) first = got;
    expect_same_bits("logprob", got.logprob.data(), first.logprob);
  }
}

/* Once, under the schedule whose turn it is. */
static void check_once(const Case &c, const Cut &cut) {
  static int turn;
  emulator_schedule(schedule_number(turn++ % schedules));
  expect_the_same(c, cut, draw(c, cut, static_cast<size_t>(turn % 4)), draw_on_cpu(c, cut));
}

/* step > 0: rounded to multiples of it, which makes ties. */
static Case random_case(TestRandom &random, int rows, int vocab, float scale, float step) {
  std::vector<float> logits =
      random.normals_f32(static_cast<size_t>(rows) * static_cast<size_t>(vocab), scale);
  for (float &x : logits)
    if (step > 0) x = roundf(x / step) * step;
  return Case(rows, vocab, logits, static_cast<uint64_t>(random.uniform() * 0x1p53));
}

static void tokens_are_those_of_the_cpu_backend(void **) {
  TestRandom random(1);
  const float top_ps[] = {1, 0.7f, 0.95f, 0.1f, 0.999f}, scales[] = {0.02f, 1, 3, 12};
  const float steps[] = {0, 0, 0.5f};
  for (int i = 0; i < tries(60); i++) {
    int vocab = 1 + random.below(i % 2 ? 30 : 900);
    Cut cut = {0.3f + 1.2f * static_cast<float>(random.uniform()), top_ps[random.below(5)],
               random.below(2) ? 1 + random.below(vocab + 3) : 0};
    check_once(random_case(random, 10, vocab, scales[random.below(4)], steps[random.below(3)]), cut);
  }
}

static void every_size_and_cut_under_every_schedule(void **) {
  TestRandom random(2);
  const int sizes[] = {1, 2, 3, 5, 37, 2053};
  const Cut cuts[] = {{0.9f, 1, 0}, {0.9f, 0.8f, 0}, {1.1f, 1, 20}, {0.7f, 0.9f, 20}};
  for (int vocab : sizes)
    for (const Cut &cut : cuts) check_everywhere(random_case(random, 2, vocab, 2, 0.125f), cut);
}

/* The bound from the threads' largest logits holds for top_k up to their number. */
static void top_k_around_the_number_of_threads(void **) {
  TestRandom random(3);
  const int top_ks[] = {1, 2, 511, 512, 513, 1999, 2000, 2001};
  for (int top_k : top_ks)
    for (float step : {0.0f, 1.0f})
      check_once(random_case(random, 4, 2000, 1, step), {1, top_k % 2 ? 0.9f : 1, top_k});
}

/* Nearly or exactly equal logits: all tokens are candidates, more than shared memory has room for. */
static void more_candidates_than_fit(void **) {
  TestRandom random(4);
  const Cut cuts[] = {{1, 0.9f, 0}, {1, 0.9999f, 0}, {1, 1, 600}, {1, 0.5f, 5000}, {1, 1, 40}, {1, 1, 0}};
  for (int vocab : {capacity - 1, capacity, capacity + 1, 6007})
    for (const Cut &cut : cuts) {
      check_once(random_case(random, 2, vocab, 0.02f, 0), cut);
      check_once(random_case(random, 2, vocab, 1, 0.5f), cut);
      check_once(random_case(random, 1, vocab, 0, 0), cut);
    }
  check_everywhere(random_case(random, 1, capacity + 5, 1, 0.25f), {1, 0.8f, 2000});
  Case some = random_case(random, 1, 6007, 0.1f, 0);
  for (size_t j = 0; j < 6007; j += 5) some.logits[j] = -60; /* in the row, but no candidates */
  for (int top_k : {4000, 5500}) check_once(some, {1, 1, top_k});
}

/* Where candidates do not fit, their exponentials stand where the logits were: bit for bit those of the CPU.
 */
static void exponentials_are_those_of_the_cpu_backend(void **) {
  TestRandom random(5);
  const int vocab = 150011;
  std::vector<float> logits(vocab), left;
  for (float &x : logits) x = static_cast<float>(-22 * random.uniform() * random.uniform());
  logits[77] = 0.75f;
  float temperature = 0.83f, inverse = 1 / temperature;
  Cut cut = {temperature, 1, vocab - 1};
  emulator_schedule(schedule_number(3));
  Case c(1, vocab, logits, 5);
  expect_the_same(c, cut, draw(c, cut, 1, &left), draw_on_cpu(c, cut));
  int dropped = 0;
  for (size_t j = 0; j < logits.size(); j++) {
    float want = simd::fast_exp((logits[j] - 0.75f) * inverse);
    bool same = float_to_bits(left[j]) == float_to_bits(want);
    dropped += left[j] == 0;
    if (!same && left[j] != 0)
      fail_msg("exp(%.9g) is %.9g, should be %.9g", number((logits[j] - 0.75f) * inverse), number(left[j]),
               number(want));
  }
  assert_int_equal(dropped, 1);
}

/* One unit of 2^-40 more or less: (2^40 + 65537) (1 - 2^-24) is 2^40 and a fraction, which takes both. */
static void the_nucleus_is_full_at_the_share_rounded_up(void **) {
  float logit = -16.65f;
  while (simd::fast_exp(logit) * 0x1p40f < 65537) logit = nextafterf(logit, 0);
  assert_true(simd::fast_exp(logit) * 0x1p40f < 65538);
  Case c(1, 3, {logit, 2 * logit, 0}, 7);
  check_everywhere(c, {1, 1 - 0x1p-24f, 0});
  assert_true(draw(c, {1, 1 - 0x1p-24f, 0}).logprob[0] < 0);
  TestRandom random(9);
  for (float top_p : {0.0f, 1e-9f, 0x1p-40f})
    check_everywhere(random_case(random, 4, 77, 2, 1), {1, top_p, 0});
}

static void a_whole_vocabulary(void **) {
  TestRandom random(6);
  const int vocab = 151936;
  Case c = random_case(random, 1, vocab, 2.5f, 0);
  for (const Cut &cut : {Cut{1, 1, 0}, Cut{0.95f, 0.7f, 0}, Cut{0.8f, 0.95f, 50}}) check_once(c, cut);
}

/* A row a token from first to last, each with no likely token but that one. */
static void check_favourites(int vocab, int first, int last) {
  std::vector<float> logits;
  for (int favourite = first; favourite <= last; favourite++)
    for (int j = 0; j < vocab; j++) logits.push_back(j == favourite ? 0.0f : -40.0f);
  Case c(last - first + 1, vocab, logits, 9);
  for (const Cut &cut : {Cut{1, 1, 0}, Cut{1, 0.9f, 0}, Cut{1, 1, 1}}) {
    emulator_schedule(schedule_number(vocab % schedules));
    Drawn got = draw(c, cut, 3);
    for (size_t r = 0; r < got.token.size(); r++) {
      assert_int_equal(got.token[r], first + static_cast<int>(r));
      assert_true(got.logprob[r] == 0);
    }
  }
}

/* The first and the last of a row, wherever its vectors begin; the seams of parts of 33 vectors. */
static void every_token_can_be_drawn(void **) {
  check_favourites(6, 0, 5);
  check_favourites(131, 0, tries(131) - 1);
  check_favourites(2053, 122, 121 + tries(19));
}

static void temperature_zero_takes_the_largest_and_the_lower_id_on_ties(void **) {
  TestRandom random(7);
  for (int vocab : {1, 9, 3001}) check_everywhere(random_case(random, 5, vocab, 1, 0.5f), {0, 0.7f, 3});
  Case c = random_case(random, 5, 3001, 1, 0.5f);
  Drawn want = draw_on_cpu(c, {0, 1, 0}), got = draw(c, {1e-40f, 1, 0});
  for (size_t r = 0; r < 5; r++) { /* so cold that nothing else has any weight */
    assert_int_equal(got.token[r], want.token[r]);
    assert_true(got.logprob[r] == 0);
  }
}

static void rows_that_are_not_finite_are_seen(void **) {
  TestRandom random(8);
  for (int vocab : {3, 700}) {
    size_t V = static_cast<size_t>(vocab);
    Case c = random_case(random, 8, vocab, 2, 0);
    for (size_t j = 0; j < V; j++) {
      c.logits[j] = NAN;
      c.logits[V + j] = -INFINITY;
      c.logits[2 * V + j] = j % 2 ? -INFINITY : NAN;
      if (j % 3) c.logits[4 * V + j] = -INFINITY; /* banned tokens: a row like others */
      if (j % 3 == 1) c.logits[5 * V + j] = NAN;  /* count for nothing */
    }
    c.logits[3 * V + V - 1] = c.logits[3 * V + V - 2] = INFINITY;
    for (const Cut &cut : {Cut{1, 1, 0}, Cut{0.9f, 0.9f, 0}, Cut{1, 1, 2}, Cut{0, 1, 0}}) {
      check_everywhere(c, cut);
      Drawn got = draw(c, cut);
      for (size_t r = 0; r < 8; r++) {
        assert_true(isnan(got.logprob[r]) == (r < 4));
        assert_in_range(got.token[r], 0, vocab - 1);
      }
    }
  }
}

static void no_rows_do_nothing(void **) {
  Sample op = {};
  op.vocab = 9;
  cuda_sample(emulator_backend(), &op);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(tokens_are_those_of_the_cpu_backend),
      cmocka_unit_test(every_size_and_cut_under_every_schedule),
      cmocka_unit_test(top_k_around_the_number_of_threads),
      cmocka_unit_test(more_candidates_than_fit),
      cmocka_unit_test(exponentials_are_those_of_the_cpu_backend),
      cmocka_unit_test(the_nucleus_is_full_at_the_share_rounded_up),
      cmocka_unit_test(a_whole_vocabulary),
      cmocka_unit_test(every_token_can_be_drawn),
      cmocka_unit_test(temperature_zero_takes_the_largest_and_the_lower_id_on_ties),
      cmocka_unit_test(rows_that_are_not_finite_are_seen),
      cmocka_unit_test(no_rows_do_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
