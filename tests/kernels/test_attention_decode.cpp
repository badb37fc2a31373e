/* cuda/attention_decode.cu on the emulator against double precision. */
#include <algorithm>

#include "kernel_test.h"

struct DecodeShape {
  std::vector<int> post_lengths;
  std::vector<int> post;      /* of each row */
  std::vector<int> reply_len; /* of each row */
  int max_reply, heads, kv_heads, head_dim;
  int prefix_len = 0;
};

static double decoded(const DecodeShape &s, const std::vector<const bf16 *> &keys, const bf16 *q, int head,
                      int column) {
  int kv = head / (s.heads / s.kv_heads), d = s.head_dim;
  double sum = 0, out = 0;
  for (const bf16 *row : keys) {
    double score = 0;
    for (int c = 0; c < d; c++) score += number(q[head * d + c]) * number(row[kv * d + c]);
    double p = exp(score / sqrt(static_cast<double>(d)));
    sum += p;
    out += p * number(row[(s.kv_heads + kv) * d + column]);
  }
  return out / sum;
}

static void check(const DecodeShape &s, uint32_t test_case) {
  TestRandom random(test_case);
  size_t rows = s.post.size(), d = static_cast<size_t>(s.head_dim),
         width = 2 * static_cast<size_t>(s.kv_heads) * d;
  size_t heads = static_cast<size_t>(s.heads), qkv_width = heads * d + width, slots = rows + 2;
  std::vector<int> starts(1, 0), slot(rows);
  for (int length : s.post_lengths) starts.push_back(starts.back() + length);
  for (size_t i = 0; i < rows; i++) slot[i] = static_cast<int>(slots - 1 - i);
  DeviceArray<int> cu_seqlens(starts), post(s.post), reply_len(s.reply_len), slot_of(slot);
  DeviceArray<bf16> qkv(random.normals(rows * qkv_width)), out(rows * heads * d);
  DeviceArray<bf16> post_cache(random.normals(static_cast<size_t>(starts.back()) * width));
  DeviceArray<bf16> prefix(random.normals(static_cast<size_t>(s.prefix_len) * width));
  DeviceArray<bf16> reply_cache(slots * static_cast<size_t>(s.max_reply) * width); /* NaN where no key is */

  std::vector<double> want(rows * heads * d);
  for (size_t i = 0; i < rows; i++) {
    std::vector<const bf16 *> keys;
    size_t p = static_cast<size_t>(s.post[i]);
    for (int j = 0; j < s.prefix_len; j++) keys.push_back(prefix.get() + static_cast<size_t>(j) * width);
    for (int j = starts[p]; j < starts[p + 1]; j++)
      keys.push_back(post_cache.get() + static_cast<size_t>(j) * width);
    for (int j = 0; j < s.reply_len[i]; j++) {
      size_t at = (static_cast<size_t>(slot[i] * s.max_reply + j)) * width;
      std::vector<bf16> values = random.normals(width);
      std::copy(values.begin(), values.end(), reply_cache.get() + at);
      keys.push_back(reply_cache.get() + at);
    }
    for (size_t c = 0; c < heads * d; c++)
      want[i * heads * d + c] =
          decoded(s, keys, qkv.get() + i * qkv_width, static_cast<int>(c / d), static_cast<int>(c % d));
  }
  std::vector<bf16> first;
  FOR_EACH_SCHEDULE {
    out.poison();
    AttentionDecode op = {};
    op.qkv = qkv.get();
    op.post_cache = post_cache.get();
    op.post_cu_seqlens = cu_seqlens.get();
    op.post = post.get();
    op.reply_cache = reply_cache.get();
    op.slot = slot_of.get();
    op.reply_len = reply_len.get();
    op.rows = static_cast<int>(rows);
    op.max_reply = s.max_reply;
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.head_dim = s.head_dim;
    op.out = out.get();
    op.prefix = s.prefix_len ? prefix.get() : nullptr;
    op.prefix_len = s.prefix_len;
    cuda_attention_decode(emulator_backend(), &op);
    expect_close("out", out.get(), want, 8e-3, 4e-3); /* P is rounded to bf16 */
    if (first.empty()) first.assign(out.get(), out.get() + out.count());
    expect_same_bits("out", out.get(), first);
  }
}

static void every_width_up_to_128(void **) {
  const int widths[] = {8, 16, 32, 40, 64, 80, 128};
  uint32_t test_case = 0;
  for (int d : widths) check({{5, 37}, {1, 0, 1}, {1, 3, 4}, 4, 2, 2, d}, test_case++);
}

static void samples_of_a_post_share_its_keys(void **) {
  TestRandom random(40);
  DecodeShape s = {{}, {}, {}, 9, 6, 2, 32};
  for (int i = 0; i < 3; i++) s.post_lengths.push_back(random.below(150));
  for (int i = 0; i < 7; i++) {
    s.post.push_back(random.below(3));
    s.reply_len.push_back(1 + random.below(9));
  }
  check(s, 41);
}

static void a_post_without_tokens_is_legal(void **) {
  check({{0, 3}, {0, 0, 1}, {1, 2, 1}, 2, 1, 1, 16}, 50);
}

/* Many rows: tiles of 8 queries, no splits. A tile's edge falls into a post's samples and into a row's group.
 */
static void tiles_cut_posts_and_groups(void **) {
  TestRandom random(70);
  DecodeShape s = {{}, {}, {}, 5, 3, 1, 64};
  for (int i = 0; i < 12; i++) s.post_lengths.push_back(random.below(40));
  for (int i = 0; i < 35; i++) {
    s.post.push_back(i / 3);
    s.reply_len.push_back(1 + random.below(5));
  }
  check(s, 71);
  s.heads = s.kv_heads = 4;
  s.head_dim = 24;
  s.prefix_len = 3;
  check(s, 72);
}

/* Few rows: the keys are split among blocks, some of which have none. */
static void long_keys_are_split_among_blocks(void **) {
  check({{333}, {0}, {1}, 2, 1, 1, 64}, 80);
  check({{0, 200, 16}, {1, 1, 2, 1, 0}, {16, 17, 32, 33, 1}, 40, 2, 1, 128}, 81);
  check({{15, 17}, {0, 1}, {1, 1}, 1, 2, 2, 64}, 82);
}

static void every_row_sees_the_prefix(void **) {
  const int lengths[] = {1, 7, 16, 17, 128};
  uint32_t test_case = 90;
  for (int length : lengths) {
    DecodeShape s = {{9, 0, 31}, {0, 0, 1, 2}, {1, 4, 2, 3}, 4, 4, 2, 64, length};
    check(s, test_case++);
  }
}

/* Rows of one post that do not stand together, and one row with more queries than a tile. */
static void any_order_and_any_group(void **) {
  check({{20, 30}, {0, 1, 0, 1, 1}, {1, 2, 3, 4, 5}, 6, 2, 2, 32}, 100);
  check({{18}, {0, 0}, {3, 2}, 3, 20, 1, 64}, 101);
}

static void no_rows_do_nothing(void **) { check({{3}, {}, {}, 2, 1, 1, 16}, 60); }

static void keys_and_values_go_to_their_cache_rows(void **) {
  const int shapes[][4] = {{0, 1, 1, 8}, {1, 1, 1, 8}, {7, 4, 2, 16}, {13, 3, 3, 64}, {37, 2, 1, 128}};
  for (const int *shape : shapes) {
    int rows = shape[0], heads = shape[1], kv_heads = shape[2], d = shape[3];
    size_t count = static_cast<size_t>(rows), width = 2 * static_cast<size_t>(kv_heads * d);
    size_t queries = static_cast<size_t>(heads * d), qkv_width = queries + width;
    DeviceArray<bf16> qkv(TestRandom(70).normals(count * qkv_width)), cache((count + 3) * width);
    std::vector<int> to(count);
    for (size_t i = 0; i < count; i++) to[i] = static_cast<int>(count + 2 - i);
    DeviceArray<int> row(to);
    for (int mapped = 0; mapped < 2; mapped++) FOR_EACH_SCHEDULE {
        cache.poison();
        KvStore op = {qkv.get(), mapped ? row.get() : nullptr, cache.get(), rows, heads, kv_heads, d};
        cuda_kv_store(emulator_backend(), &op);
        for (size_t i = 0; i < count; i++)
          assert_memory_equal(cache.get() + (mapped ? static_cast<size_t>(to[i]) : i) * width,
                              qkv.get() + i * qkv_width + queries, width * sizeof(bf16));
        for (size_t c = 0; c < width; c++) /* rows that nobody named stay as they were */
          assert_int_equal(cache[(mapped ? 0 : count) * width + c].bits, 0xFFFF);
      }
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_width_up_to_128),
      cmocka_unit_test(samples_of_a_post_share_its_keys),
      cmocka_unit_test(a_post_without_tokens_is_legal),
      cmocka_unit_test(tiles_cut_posts_and_groups),
      cmocka_unit_test(long_keys_are_split_among_blocks),
      cmocka_unit_test(every_row_sees_the_prefix),
      cmocka_unit_test(any_order_and_any_group),
      cmocka_unit_test(no_rows_do_nothing),
      cmocka_unit_test(keys_and_values_go_to_their_cache_rows),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
