/* How work is cut over ranks: batches by tokens (share.h), contiguous parts (base/comm.h), and the slices of
 * the optimizer's states (models/shards.h). */
#include <stdlib.h>
#include <string.h>

#include "base/comm.h"
#include "base/philox.h"
#include "models/shards.h"
#include "share.h"
#include "testing.h"

enum { MOST_ITEMS = 400, MOST_RANKS = 9, ROUNDS = 300 };

static uint32_t below(uint32_t round, uint32_t index, uint32_t bound) {
  return random_below((RandomKey){20, 1, 2}, round, index, bound);
}

/* ---- dealing ---- */

static int heaviest_of(const int *weight, int count) {
  int heaviest = 0;
  for (int i = 0; i < count; i++)
    if (weight[i] > heaviest) heaviest = weight[i];
  return heaviest;
}

static void dealing_is_complete_and_balanced(void **state) {
  (void)state;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    int weight[MOST_ITEMS], owner[MOST_ITEMS], again[MOST_ITEMS], load[MOST_RANKS] = {0}, total = 0;
    int count = (int)below(round, 0, MOST_ITEMS), ranks = 1 + (int)below(round, 1, MOST_RANKS);
    for (int i = 0; i < count; i++) total += weight[i] = 1 + (int)below(round, 2 + (uint32_t)i, 160);
    share_out(weight, count, ranks, owner);
    for (int i = 0; i < count; i++) {
      assert_in_range(owner[i], 0, ranks - 1);
      load[owner[i]] += weight[i];
    }
    int heaviest = heaviest_of(weight, count), least = load[0];
    for (int r = 0; r < ranks; r++) {
      assert_true(load[r] <= share_most(total, heaviest, ranks));
      if (load[r] < least) least = load[r];
    }
    /* nobody is ahead of the least by more than one item */
    for (int r = 0; r < ranks; r++) assert_true(load[r] - least <= heaviest);
    share_out(weight, count, ranks, again);
    assert_memory_equal(owner, again, sizeof *owner * (size_t)count);
  }
}

static void equal_items_go_to_the_lower_rank_first(void **state) {
  (void)state;
  int owner[7];
  share_out((int[]){5, 5, 5, 5, 5, 5, 5}, 7, 3, owner);
  assert_memory_equal(owner, ((int[]){0, 1, 2, 0, 1, 2, 0}), sizeof owner);
  share_out((int[]){1, 9, 1, 1, 8, 1, 1}, 7, 2, owner); /* 9 | 8 1, then in turn */
  assert_int_equal(owner[1], 0);
  assert_int_equal(owner[4], 1);
  assert_int_equal(owner[0], 1);
}

static void the_bound_is_reached_by_one_long_item(void **state) {
  (void)state;
  assert_int_equal(share_most(100, 60, 4), 85);
  assert_int_equal(share_most(100, 60, 1), 100);
  assert_int_equal(share_most(100, 90, 2), 100);
}

static void contiguous_parts_cover_everything(void **state) {
  (void)state;
  int first[MOST_RANKS + 1];
  Comm alone = comm;
  for (comm.size = 1; comm.size <= MOST_RANKS; comm.size++)
    for (int count = 0; count < 40; count++) {
      comm_parts(count, first);
      assert_int_equal(first[0], 0);
      assert_int_equal(first[comm.size], count);
      for (int r = 0; r < comm.size; r++)
        assert_in_range(first[r + 1] - first[r], count / comm.size, (count + comm.size - 1) / comm.size);
    }
  comm = alone;
}

/* The row of token t of a part's text i, whose own tokens begin at first[i]. */
static int row_of(const int *first, int i, int shared, int t) {
  return t < shared ? first[i - 1] + t : first[i] + t - shared;
}

/* Every rank's part of a batch together is the batch: texts in pairs, their rows, targets and ids. The second
 * text of a pair may begin as the first does, and shares these tokens then. */
static void parts_of_a_batch_make_the_batch(void **state) {
  (void)state;
  enum { RANKS = 3, TOKENS = 512, TEXTS = 24 };
  Arena arena = {0};
  Backend *backend = NULL;
  Comm alone = comm;
  int shared_texts = 0;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  for (uint32_t round = 0; round < 40; round++) {
    Batch whole;
    BatchShare share;
    int32_t tokens[20];
    int shared[TEXTS] = {0};
    bool seen[TEXTS] = {false};
    int unit = 1 + (int)below(round, 0, 2), rows = 0, taken = 0;
    comm = (Comm){.size = RANKS};
    assert_int_equal(batch_allocate(&arena, &whole, backend, TOKENS, TEXTS), OK);
    for (comm.rank = 0; comm.rank < RANKS; comm.rank++) {
      assert_int_equal(share_allocate(&arena, &share, &whole, unit, 20 * unit), OK);
      batch_clear(&whole);
      for (int s = 0; s < TEXTS; s++) {
        int length = 10 + (int)below(round, 1 + (uint32_t)s, 11);
        int before = s ? whole.tokens - whole.host.cu_seqlens[s - 1] : 0;
        if (unit == 2 && s % 2)
          shared[s] = (int)below(round, 90, (uint32_t)(length < before ? length : before));
        for (int t = shared[s]; t < length; t++) tokens[t] = 100 * s + t;
        int target = 1 + shared[s] + (int)below(round, 50 + (uint32_t)s, (uint32_t)(length - shared[s]));
        batch_branch(&whole, tokens, length, target, shared[s]);
      }
      assert_int_equal(whole.sequences, TEXTS);
      share_deal(&share);
      const Batch *mine = share.mine;
      int first[TEXTS + 1] = {0};
      assert_true(mine->tokens <= mine->max_tokens);
      assert_int_equal(mine->texts, share.groups * unit);
      for (int i = 0; i < mine->texts; i++) {
        int s = share.group[i / unit] * unit + i % unit;
        int begin = whole.host.cu_seqlens[s], length = whole.host.cu_seqlens[s + 1] - begin;
        assert_false(seen[s]);
        seen[s] = true;
        first[i + 1] = first[i] + length - shared[s];
        for (int t = 0; t < length; t++) {
          int row = row_of(first, i, shared[s], t);
          assert_int_equal(mine->host.tokens[row], whole.host.tokens[begin + t]);
          assert_int_equal(mine->host.positions[row], t);
          if (t >= shared[s]) assert_int_equal(mine->host.ids[row], whole.host.ids[begin + t]);
        }
        shared_texts += shared[s] > 0;
      }
      assert_int_equal(mine->tokens, first[mine->texts]);
      for (int i = 0; i < mine->rows; i++) /* a row predicts the token after it */
        assert_int_equal(mine->host.targets[i], mine->host.tokens[mine->host.rows[i] + 1]);
      rows += mine->rows;
      taken += mine->texts;
      share_free(&share);
    }
    assert_int_equal(taken, TEXTS);
    assert_int_equal(rows, whole.rows);
    batch_free(&whole);
  }
  assert_true(shared_texts > 20);
  comm = alone;
  backend->close(backend);
  arena_free(&arena);
}

/* ---- slices ---- */

typedef struct Layout {
  Stretch stretch[24];
  int count;
  size_t total, decay;
} Layout;

/* Stretches as a model has them: an embedding, layers, a vocabulary, vectors. */
static Layout random_layout(uint32_t round, int ranks) {
  Layout l = {0};
  int layers = (int)below(round, 0, 20);
  size_t end = 0, unit = shards_unit(ranks);
  for (int i = -1; i <= layers; i++) {
    end += 64 * (1 + (size_t)below(round, 2 + (uint32_t)i, 300));
    l.stretch[l.count++] = (Stretch){end, i == layers ? BUCKET_AT_ONCE : i};
  }
  l.decay = end;
  l.total = (end + 64 * (1 + (size_t)below(round, 90, 40)) + unit - 1) / unit * unit;
  l.stretch[l.count++] = (Stretch){l.total, BUCKET_AT_END};
  return l;
}

static void slices_partition_the_arena(void **state) {
  (void)state;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    int ranks = 1 + (int)below(round, 1, MOST_RANKS);
    Layout l = random_layout(round, ranks);
    char *owners = calloc(l.total, 1);
    size_t decaying = 0;
    for (int r = 0; r < ranks; r++) {
      Shards shards = {0};
      shards_plan(&shards, l.stretch, l.count, l.total, l.decay, ranks, r, 1000);
      assert_int_equal(shards.total, l.total / (size_t)ranks);
      size_t at = 0, next = 0;
      for (int b = 0; b < shards.count; b++) {
        const Bucket *bucket = &shards.bucket[b];
        size_t begin, end;
        shards_slice(&shards, bucket, &begin, &end);
        assert_int_equal(bucket->begin, next); /* no gap, no overlap */
        assert_int_equal(bucket->at, at);
        assert_int_equal((end - begin) * (size_t)ranks, bucket->end - bucket->begin);
        assert_int_equal(begin % 64, 0);
        for (size_t i = begin; i < end; i++) owners[i]++;
        for (size_t i = begin; i < end; i++) /* in the shard, too, those that decay come first */
          assert_int_equal(i < l.decay, bucket->at + (i - begin) < shards.decay_total);
        at += end - begin;
        next = bucket->end;
      }
      assert_int_equal(next, l.total);
      decaying += shards.decay_total;
      arena_free(&shards.memory);
    }
    for (size_t i = 0; i < l.total; i++) assert_int_equal(owners[i], 1);
    assert_int_equal(decaying, l.decay);
    free(owners);
  }
}

static void a_bucket_waits_for_all_that_it_touches(void **state) {
  (void)state;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    int ranks = 1 + (int)below(round, 1, MOST_RANKS);
    Layout l = random_layout(round, ranks);
    Shards shards = {0};
    shards_plan(&shards, l.stretch, l.count, l.total, l.decay, ranks, 0, 1000);
    for (int b = 0; b < shards.count; b++) {
      const Bucket *bucket = &shards.bucket[b];
      size_t begin = 0;
      for (int s = 0; s < l.count; begin = l.stretch[s++].end)
        if (begin < bucket->end && l.stretch[s].end > bucket->begin)
          assert_true(bucket->layer <= l.stretch[s].layer);
      assert_true(b == shards.count - 1 || bucket->end - bucket->begin >= 1000);
    }
    arena_free(&shards.memory);
  }
}

static void layers_get_buckets_of_their_own(void **state) {
  (void)state;
  const Stretch stretch[] = {
      {6400, BUCKET_AT_END}, {12800, 0}, {19200, 1}, {19264, BUCKET_AT_END}, {19328, BUCKET_AT_END}};
  Shards shards = {0};
  shards_plan(&shards, stretch, 5, 19328, 19200, 2, 1, 1000);
  assert_int_equal(shards.count, 4);
  const int layers[] = {BUCKET_AT_END, 0, 1, BUCKET_AT_END};
  for (int b = 0; b < 4; b++) assert_int_equal(shards.bucket[b].layer, layers[b]);
  assert_int_equal(shards.bucket[1].begin, 6400);
  assert_int_equal(shards.bucket[2].end, 19200);
  arena_free(&shards.memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dealing_is_complete_and_balanced),
      cmocka_unit_test(equal_items_go_to_the_lower_rank_first),
      cmocka_unit_test(the_bound_is_reached_by_one_long_item),
      cmocka_unit_test(contiguous_parts_cover_everything),
      cmocka_unit_test(parts_of_a_batch_make_the_batch),
      cmocka_unit_test(slices_partition_the_arena),
      cmocka_unit_test(a_bucket_waits_for_all_that_it_touches),
      cmocka_unit_test(layers_get_buckets_of_their_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
