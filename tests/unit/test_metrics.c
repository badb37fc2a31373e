/* metrics.jsonl and the event file: what is in them, and that resuming leaves no trace in the former. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "metrics.h"
#include "tensorboard.h"
#include "testing.h"

static char folder[] = "/tmp/popalm-metrics-XXXXXX";
static char rows_path[256], events_path[256];

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return 1;
  snprintf(rows_path, sizeof rows_path, "%s/metrics.jsonl", folder);
  snprintf(events_path, sizeof events_path, "%s/events.out.tfevents.0.popalm", folder);
  return 0;
}

static int clean(void **state) {
  (void)state;
  unlink(rows_path);
  unlink(events_path);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  return rmdir(folder);
}

static char *read_all(Arena *arena, const char *path, size_t *length) {
  FileMap map;
  assert_int_equal(file_map(path, &map), OK);
  char *copy = arena_strndup(arena, map.data, map.length);
  if (length) *length = map.length;
  file_unmap(&map);
  return copy;
}

static void write_steps(int64_t resume, int64_t first, int64_t last, double speed) {
  Arena arena = {0};
  Metrics *metrics;
  assert_int_equal(metrics_open(&arena, folder, resume, &metrics), OK);
  for (int64_t step = first; step <= last; step++) {
    metrics_begin(metrics, step);
    metrics_add(metrics, "loss", 1.0 / (double)step);
    metrics_add_volatile(metrics, "tokens_per_second", speed);
    metrics_add(metrics, "kl", sin((double)step));
    assert_int_equal(metrics_end(metrics), OK);
  }
  assert_int_equal(metrics_close(metrics), OK);
  arena_free(&arena);
}

/* A decoder of its own for what the file holds. */
typedef struct Event {
  double wall_time;
  int64_t step;
  char version[32];
  int count;
  char tags[8][32];
  float values[8];
} Event;

static uint64_t little(const unsigned char *bytes, int count) {
  uint64_t value = 0;
  for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
  return value;
}

static uint64_t varint(const unsigned char **at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    value |= (uint64_t)(**at & 0x7F) << shift;
    if (*(*at)++ < 0x80) return value;
  }
}

static void decode_value(const unsigned char *at, const unsigned char *end, Event *event) {
  while (at < end) {
    uint64_t key = varint(&at);
    if (key == (1 << 3 | 2)) {
      uint64_t length = varint(&at);
      assert_true(length < 32);
      memcpy(event->tags[event->count], at, length);
      at += length;
    } else {
      assert_int_equal(key, 2 << 3 | 5);
      uint32_t bits = (uint32_t)little(at, 4);
      memcpy(&event->values[event->count], &bits, 4);
      at += 4;
    }
  }
  assert_ptr_equal(at, end);
  event->count++;
}

static void decode_event(const unsigned char *at, const unsigned char *end, Event *event) {
  *event = (Event){0};
  while (at < end) {
    uint64_t key = varint(&at);
    if (key == (1 << 3 | 1)) {
      uint64_t bits = little(at, 8);
      memcpy(&event->wall_time, &bits, 8);
      at += 8;
    } else if (key == (2 << 3 | 0)) {
      event->step = (int64_t)varint(&at);
    } else if (key == (3 << 3 | 2)) {
      uint64_t length = varint(&at);
      memcpy(event->version, at, length);
      at += length;
    } else {
      assert_int_equal(key, 5 << 3 | 2);
      uint64_t left = varint(&at);
      const unsigned char *stop = at + left;
      while (at < stop) {
        assert_int_equal(varint(&at), 1 << 3 | 2);
        uint64_t length = varint(&at);
        decode_value(at, at + length, event);
        at += length;
      }
    }
  }
  assert_ptr_equal(at, end);
}

static int decode_file(Event *events, int capacity) {
  Arena arena = {0};
  size_t length;
  const unsigned char *at = (unsigned char *)read_all(&arena, events_path, &length), *end = at + length;
  int count = 0;
  while (at < end) {
    assert_true(count < capacity);
    uint64_t size = little(at, 8);
    assert_int_equal(little(at + 8, 4), masked_crc32c(at, 8));
    assert_int_equal(little(at + 12 + size, 4), masked_crc32c(at + 12, size));
    decode_event(at + 12, at + 12 + size, &events[count++]);
    at += size + 16;
  }
  assert_ptr_equal(at, end);
  arena_free(&arena);
  return count;
}

static void crc_is_castagnoli_masked(void **state) {
  (void)state;
  uint32_t crc = 0xE3069283; /* of "123456789", the check value of CRC-32C */
  assert_int_equal(masked_crc32c("123456789", 9), (crc >> 15 | crc << 17) + 0xa282ead8u);
}

static void rows_hold_shortest_numbers_and_null(void **state) {
  (void)state;
  Arena arena = {0};
  Metrics *metrics;
  assert_int_equal(metrics_open(&arena, folder, 0, &metrics), OK);
  metrics_begin(metrics, 7);
  metrics_add(metrics, "a", 0.1);
  metrics_add(metrics, "b", 1.0 / 3);
  metrics_add(metrics, "c", NAN);
  metrics_add(metrics, "d", -INFINITY);
  metrics_add(metrics, "e", 16777217);
  metrics_add(metrics, "f", 1e-300);
  metrics_add_volatile(metrics, "g", 3);
  assert_int_equal(metrics_end(metrics), OK);
  assert_int_equal(metrics_close(metrics), OK);
  assert_string_equal(read_all(&arena, rows_path, NULL),
                      "{\"step\":7,\"a\":0.1,\"b\":0.3333333333333333,\"c\":null,\"d\":null,\"e\":16777217,"
                      "\"f\":1e-300}\n");
  arena_free(&arena);
}

static void event_file_decodes_to_what_was_added(void **state) {
  (void)state;
  write_steps(0, 1, 300, 5);
  static Event events[400];
  assert_int_equal(decode_file(events, 400), 301);
  assert_string_equal(events[0].version, "brain.Event:2");
  for (int step = 1; step <= 300; step++) {
    const Event *event = &events[step];
    assert_int_equal(event->step, step);
    assert_int_equal(event->count, 3);
    assert_string_equal(event->tags[0], "loss");
    assert_string_equal(event->tags[1], "tokens_per_second");
    assert_true(event->values[0] == (float)(1.0 / step) && event->values[1] == 5);
    assert_true(event->wall_time > 1e9);
  }
}

static void resumed_rows_equal_undisturbed_ones(void **state) {
  (void)state;
  Arena arena = {0};
  write_steps(0, 1, 20, 5);
  const char *undisturbed = read_all(&arena, rows_path, NULL);
  for (int64_t at = 0; at <= 20; at++)
    for (int torn = 0; torn < 2; torn++) {
      write_steps(0, 1, 15, 6); /* dies at 15; its last checkpoint was at `at` */
      if (torn) {
        size_t length;
        read_all(&arena, rows_path, &length);
        assert_int_equal(truncate(rows_path, (off_t)length - 9), 0);
        read_all(&arena, events_path, &length);
        assert_int_equal(truncate(events_path, (off_t)length - 9), 0);
      }
      if (at > 15 - torn) continue;
      write_steps(at, at + 1, 20, 7);
      assert_string_equal(read_all(&arena, rows_path, NULL), undisturbed);
      static Event events[64];
      assert_int_equal(decode_file(events, 64), 21);
      for (int step = 0; step <= 20; step++) assert_int_equal(events[step].step, step);
    }
  arena_free(&arena);
}

static void a_missing_folder_is_named(void **state) {
  (void)state;
  Arena arena = {0};
  Metrics *metrics;
  assert_int_equal(metrics_open(&arena, "/nonexistent/run", 0, &metrics), FAILED);
  assert_non_null(strstr(error_message(), "/nonexistent/run/metrics.jsonl"));
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(crc_is_castagnoli_masked),
      cmocka_unit_test_teardown(rows_hold_shortest_numbers_and_null, clean),
      cmocka_unit_test_teardown(event_file_decodes_to_what_was_added, clean),
      cmocka_unit_test_teardown(resumed_rows_equal_undisturbed_ones, clean),
      cmocka_unit_test(a_missing_folder_is_named),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
