/* cuda/embedding.cu on the emulator: forward exact to one rounding, backward against sums in double. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

static void check_forward(int rows, int hidden, bool position_table, uint32_t test_case) {
  const int vocab = 37, max_positions = 11;
  TestRandom random(test_case);
  DeviceArray<bf16> token_table(random.normals(size(vocab * hidden)));
  DeviceArray<bf16> positions_table(random.normals(size(max_positions * hidden)));
  DeviceArray<int32_t> tokens(size(rows)), positions(size(rows));
  for (size_t r = 0; r < size(rows); r++) {
    tokens[r] = r == 0 ? vocab - 1 : random.below(vocab);
    positions[r] = r == 0 ? max_positions - 1 : random.below(max_positions);
  }
  std::vector<bf16> want(size(rows) * size(hidden));
  for (size_t i = 0; i < want.size(); i++) {
    size_t r = i / size(hidden), c = i % size(hidden);
    float x = to_float(token_table[size(tokens[r]) * size(hidden) + c]);
    if (position_table) x += to_float(positions_table[size(positions[r]) * size(hidden) + c]);
    want[i] = to_bf16(x);
  }
  DeviceArray<bf16> out(want.size());
  FOR_EACH_SCHEDULE {
    out.poison();
    Embedding op = {tokens.get(),
                    positions.get(),
                    rows,
                    hidden,
                    vocab,
                    max_positions,
                    token_table.get(),
                    position_table ? positions_table.get() : nullptr,
                    out.get(),
                    WEIGHT_NATIVE};
    cuda_embedding(emulator_backend(), &op);
    expect_same_bits("out", out.get(), want);
  }
}

static void embedding_adds_token_and_position(void **) {
  const int shapes[][2] = {{0, 8}, {1, 1}, {5, 8}, {13, 64}, {67, 29}};
  uint32_t test_case = 0;
  for (const int *s : shapes) {
    check_forward(s[0], s[1], true, test_case++);
    check_forward(s[0], s[1], false, test_case++);
  }
}

/* A table's gradient from `rows` rows whose indices are given. */
struct BackwardCase {
  BackwardCase(std::vector<int32_t> index_, int table_rows_, int hidden_, uint32_t test_case)
      : rows(static_cast<int>(index_.size())),
        table_rows(table_rows_),
        hidden(hidden_),
        random(test_case),
        index(index_),
        dout(random.normals(index_.size() * size(hidden))),
        start(random.normals(size(table_rows) * size(hidden))) {
    want.resize(start.size());
    for (size_t i = 0; i < start.size(); i++) want[i] = number(start[i]);
    for (size_t r = 0; r < size(rows); r++)
      for (size_t c = 0; c < size(hidden); c++)
        want[size(index[r]) * size(hidden) + c] += number(dout[r * size(hidden) + c]);
  }

  /* Half a unit in the last place of the result, and the error of fp32 sums: a second rounding would show. */
  void check_table(const char *what, const bf16 *table) const {
    expect_close(what, table, want, 1.0 / 256 * 1.02, 1e-6 * rows + 1e-5);
  }

  void check(int runs) {
    std::vector<bf16> first;
    for (int i = 0; i < runs; i++) {
      emulator_schedule(schedule_number(i));
      DeviceArray<bf16> table(start);
      EmbeddingBackward op = {index.get(), nullptr,    rows,        hidden, table_rows,
                              0,           dout.get(), table.get(), nullptr};
      cuda_embedding_backward(emulator_backend(), &op);
      check_table("dtoken_table", table.get());
      if (i == 0) first.assign(table.get(), table.get() + start.size());
      expect_same_bits("dtoken_table", table.get(), first);
    }
  }

  int rows, table_rows, hidden;
  TestRandom random;
  DeviceArray<int32_t> index;
  DeviceArray<bf16> dout;
  std::vector<bf16> start;
  std::vector<double> want;
};

static std::vector<int32_t> random_indices(int rows, int table_rows, uint32_t test_case) {
  TestRandom random(test_case);
  std::vector<int32_t> out(size(rows));
  for (int32_t &x : out) x = random.below(table_rows);
  return out;
}

static void gradient_rows_go_to_their_tokens(void **) {
  const int shapes[][3] = {{1, 1, 1},      {2, 2, 8},       {31, 7, 16},  {32, 40, 5},
                           {33, 3, 24},    {64, 64, 8},     {97, 1, 3},   {200, 2, 9},
                           {257, 11, 264}, {131, 500, 300}, {1000, 13, 8}};
  uint32_t test_case = 100;
  for (const int *s : shapes) {
    BackwardCase(random_indices(s[0], s[1], test_case), s[1], s[2], test_case).check(schedules);
    test_case++;
  }
}

/* 1024 keys a chunk: two whole ones, a last pair whose second run is short, a run without neighbour. */
static void sorting_merges_all_chunks(void **) {
  uint32_t test_case = 200;
  for (int rows : {1025, 2048, 2049, 3000, 5001}) {
    BackwardCase(random_indices(rows, 700, test_case), 700, 2, test_case).check(rows < 2049 ? schedules : tries(2));
    BackwardCase(random_indices(rows, 1 << 17, test_case), 1 << 17, 1, test_case).check(1);
    test_case++;
  }
}

static void one_token_in_every_row_is_summed_in_segments(void **) {
  for (int rows : {32, 33, 64, 65, 320, 2000}) {
    BackwardCase c(std::vector<int32_t>(size(rows), 2), 4, 9, 300 + static_cast<uint32_t>(rows));
    c.check(rows < 1000 ? schedules : tries(2));
  }
}

/* Runs that begin and end at, one before and one behind the borders of segments of 32. */
static void runs_meet_the_borders_of_segments(void **) {
  const int lengths[] = {31, 1, 32, 33, 63, 1, 95, 32, 2, 30, 64, 65, 128, 1, 1};
  std::vector<int32_t> index;
  int token = 0;
  for (int length : lengths) index.insert(index.end(), size(length), token++);
  for (size_t i = index.size() - 1; i > 0; i--) std::swap(index[i], index[i * 7919 % (i + 1)]);
  BackwardCase(index, token, 12, 400).check(schedules);
  BackwardCase(index, token, 8, 401).check(schedules);
  /* The key behind a run that ends at a border is the least of its index: row 0. */
  std::vector<int32_t> first_row(65, 0);
  first_row[0] = 1;
  BackwardCase(first_row, 2, 8, 402).check(schedules);
}

/* 1 + 2^-9 in bf16 is 1, but two of them are not: rounding after each row would lose all of it. */
static void table_is_rounded_once(void **) {
  const int rows = 100;
  BackwardCase c(std::vector<int32_t>(size(rows), 0), 1, 8, 500);
  for (size_t i = 0; i < c.dout.count(); i++) c.dout[i] = to_bf16(1.0f / 512);
  for (size_t i = 0; i < 8; i++) c.start[i] = to_bf16(1), c.want[i] = number(to_bf16(1 + rows / 512.0f));
  DeviceArray<bf16> table(c.start);
  EmbeddingBackward op = {c.index.get(), nullptr, rows, 8, 1, 0, c.dout.get(), table.get(), nullptr};
  cuda_embedding_backward(emulator_backend(), &op);
  expect_close("dtoken_table", table.get(), c.want, 0, 0);
}

static void tables_share_the_path_and_may_be_left_out(void **) {
  const int rows = 150, vocab = 20, max_positions = 40, hidden = 16;
  BackwardCase tokens(random_indices(rows, vocab, 600), vocab, hidden, 600);
  BackwardCase positions(random_indices(rows, max_positions, 601), max_positions, hidden, 600);
  assert_memory_equal(tokens.dout.get(), positions.dout.get(), tokens.dout.count() * sizeof(bf16));
  for (int which = 0; which < 4; which++) {
    DeviceArray<bf16> dtoken(tokens.start), dposition(positions.start);
    EmbeddingBackward op = {tokens.index.get(),
                            positions.index.get(),
                            rows,
                            hidden,
                            vocab,
                            max_positions,
                            tokens.dout.get(),
                            which & 1 ? dtoken.get() : nullptr,
                            which & 2 ? dposition.get() : nullptr};
    cuda_embedding_backward(emulator_backend(), &op);
    if (which & 1) tokens.check_table("dtoken_table", dtoken.get());
    if (which & 2) positions.check_table("dposition_table", dposition.get());
    if (!(which & 1)) expect_same_bits("dtoken_table", dtoken.get(), tokens.start);
    if (!(which & 2)) expect_same_bits("dposition_table", dposition.get(), positions.start);
  }
}

static void no_rows_leave_the_tables(void **) {
  BackwardCase c({}, 3, 8, 700);
  c.check(1);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(embedding_adds_token_and_position),
      cmocka_unit_test(gradient_rows_go_to_their_tokens),
      cmocka_unit_test(sorting_merges_all_chunks),
      cmocka_unit_test(one_token_in_every_row_is_summed_in_segments),
      cmocka_unit_test(runs_meet_the_borders_of_segments),
      cmocka_unit_test(table_is_rounded_once),
      cmocka_unit_test(tables_share_the_path_and_may_be_left_out),
      cmocka_unit_test(no_rows_leave_the_tables),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
