/* cuda/decode_advance.cu on the emulator against the CPU backend: the same state after every step. */
#include "kernel_test.h"

extern "C" {
#include "cpu/cpu.h"
}

static const int32_t eos = 3;

/* What the operation reads and writes, in one form for both backends. */
struct State {
  std::vector<int32_t> slot, token, reply, length, finished, next_token, next_position, next_reply_len,
      next_cache_row, next_index;
  std::vector<float> logprob, reply_logprob;
};

static std::vector<int32_t> integers(TestRandom &random, int count, int from, int to) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; i++) out.push_back(from + random.below(to - from + 1));
  return out;
}

/* Every row has a slot of its own among rows + 3. */
static State random_state(TestRandom &random, int rows, int max_reply) {
  int slots = rows + 3;
  State s;
  for (int r = 0; r < rows; r++) s.slot.push_back(slots % 7 ? (7 * r + 2) % slots : slots - 1 - r);
  s.token = integers(random, rows, 0, 9);
  s.reply = integers(random, slots * max_reply, 0, 9);
  s.length = integers(random, slots, 0, max_reply);
  s.finished = integers(random, slots, 0, 1);
  s.next_token = integers(random, rows, 0, 9);
  s.next_position = integers(random, rows, 0, 100);
  s.next_reply_len = integers(random, rows, 1, max_reply);
  s.next_cache_row = integers(random, rows, 0, slots * max_reply - 1);
  s.next_index = integers(random, rows, 0, 50);
  s.logprob = random.normals_f32(static_cast<size_t>(rows));
  s.reply_logprob = random.normals_f32(s.reply.size());
  return s;
}

static State after_on_cpu(State s, int max_reply) {
  DecodeAdvance op = {s.slot.data(),
                      s.token.data(),
                      s.logprob.data(),
                      eos,
                      static_cast<int>(s.slot.size()),
                      max_reply,
                      s.reply.data(),
                      s.reply_logprob.data(),
                      s.length.data(),
                      s.finished.data(),
                      s.next_token.data(),
                      s.next_position.data(),
                      s.next_reply_len.data(),
                      s.next_cache_row.data(),
                      s.next_index.data()};
  cpu_decode_advance(nullptr, &op);
  return s;
}

template <typename T>
static void expect_equal(const char *what, const DeviceArray<T> &got, const std::vector<T> &want) {
  for (size_t i = 0; i < want.size(); i++)
    if (got[i] != want[i])
      fail_msg("%s[%zu] is %g, should be %g", what, i, static_cast<double>(got[i]),
               static_cast<double>(want[i]));
}

static void check(int rows, int max_reply, uint32_t test_case) {
  TestRandom random(test_case);
  State s = random_state(random, rows, max_reply), want = after_on_cpu(s, max_reply);
  FOR_EACH_SCHEDULE {
    DeviceArray<int32_t> slot(s.slot), token(s.token), reply(s.reply), length(s.length), finished(s.finished),
        next_token(s.next_token), next_position(s.next_position), next_reply_len(s.next_reply_len),
        next_cache_row(s.next_cache_row), next_index(s.next_index);
    DeviceArray<float> logprob(s.logprob), reply_logprob(s.reply_logprob);
    DecodeAdvance op = {slot.get(),
                        token.get(),
                        logprob.get(),
                        eos,
                        rows,
                        max_reply,
                        reply.get(),
                        reply_logprob.get(),
                        length.get(),
                        finished.get(),
                        next_token.get(),
                        next_position.get(),
                        next_reply_len.get(),
                        next_cache_row.get(),
                        next_index.get()};
    cuda_decode_advance(emulator_backend(), &op);
    expect_equal("reply", reply, want.reply);
    expect_equal("reply_logprob", reply_logprob, want.reply_logprob);
    expect_equal("length", length, want.length);
    expect_equal("finished", finished, want.finished);
    expect_equal("next_token", next_token, want.next_token);
    expect_equal("next_position", next_position, want.next_position);
    expect_equal("next_reply_len", next_reply_len, want.next_reply_len);
    expect_equal("next_cache_row", next_cache_row, want.next_cache_row);
    expect_equal("next_index", next_index, want.next_index);
  }
}

static void state_is_that_of_the_cpu_backend(void **) {
  const int sizes[] = {0, 1, 2, 31, 127, 128, 129, 300};
  uint32_t test_case = 1;
  for (int rows : sizes)
    for (int max_reply : {1, 2, 5, 32}) check(rows, max_reply, test_case++);
}

int main() {
  const CMUnitTest tests[] = {cmocka_unit_test(state_is_that_of_the_cpu_backend)};
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
