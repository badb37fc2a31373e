#include "tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Protocol buffers: a field is the varint (number << 3 | wire type), then its value. */
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2 };
enum { RECORD_HEAD = 12, RECORD_TAIL = 4 };

uint32_t masked_crc32c(const void *data, size_t length) {
  const unsigned char *bytes = data;
  uint32_t crc = ~0u;
  for (size_t i = 0; i < length; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1)));
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void add_little(Text *text, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++, value >>= 8) text_add(text, &(char){(char)value}, 1);
}

static void add_varint(Text *text, uint64_t value) {
  for (; value >= 0x80; value >>= 7) text_add(text, &(char){(char)(value | 0x80)}, 1);
  text_add(text, &(char){(char)value}, 1);
}

static void add_key(Text *text, int field, int wire) { add_varint(text, (uint64_t)(field << 3 | wire)); }

static void add_bytes(Text *text, int field, const char *data, size_t length) {
  add_key(text, field, WIRE_BYTES);
  add_varint(text, length);
  text_add(text, data, length);
}

static void add_double(Text *text, int field, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  add_key(text, field, WIRE_64);
  add_little(text, bits, 8);
}

static void add_float(Text *text, int field, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  add_key(text, field, WIRE_32);
  add_little(text, bits, 4);
}

static size_t varint_bytes(uint64_t value) {
  size_t bytes = 1;
  while (value >>= 7) bytes++;
  return bytes;
}

void events_add(EventFile *file, const char *tag, double value) {
  size_t length = strlen(tag);
  add_key(&file->summary, SUMMARY_VALUE, WIRE_BYTES);
  add_varint(&file->summary, 1 + varint_bytes(length) + length + 1 + 4);
  add_bytes(&file->summary, VALUE_TAG, tag, length);
  add_float(&file->summary, VALUE_SIMPLE, (float)value);
}

/* Frames the event in file->record, which has RECORD_HEAD bytes left free at its start, and appends it. */
static Status append(EventFile *file) {
  Text *record = &file->record;
  uint64_t length = record->length - RECORD_HEAD;
  for (int i = 0; i < 8; i++) record->data[i] = (char)(length >> (8 * i));
  uint32_t head = masked_crc32c(record->data, 8);
  for (int i = 0; i < 4; i++) record->data[8 + i] = (char)(head >> (8 * i));
  add_little(record, masked_crc32c(record->data + RECORD_HEAD, length), RECORD_TAIL);
  const char *at = record->data;
  size_t left = record->length;
  while (left > 0) {
    ssize_t written = write(file->fd, at, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", file->path,
                  strerror(errno));
    at += written;
    left -= (size_t)written;
  }
  return OK;
}

static void begin_event(EventFile *file, double wall_time) {
  static const char head[RECORD_HEAD] = {0};
  file->record.length = 0;
  text_add(&file->record, head, RECORD_HEAD);
  add_double(&file->record, EVENT_WALL_TIME, wall_time);
}

Status events_write(EventFile *file, int64_t step, double wall_time) {
  begin_event(file, wall_time);
  add_key(&file->record, EVENT_STEP, WIRE_VARINT);
  add_varint(&file->record, (uint64_t)step);
  add_bytes(&file->record, EVENT_SUMMARY, file->summary.length ? file->summary.data : "",
            file->summary.length);
  file->summary.length = 0;
  return append(file);
}

/* The step of an event of ours (wall time, then the step); 0 for one without, -1 for one that is not ours. */
static int64_t step_of(const unsigned char *event, size_t length) {
  size_t at = 9;
  if (length < at || event[0] != (EVENT_WALL_TIME << 3 | WIRE_64)) return -1;
  if (at == length || event[at] != (EVENT_STEP << 3 | WIRE_VARINT)) return 0;
  uint64_t step = 0;
  int shift = 0;
  for (at++; at < length && shift < 64; at++, shift += 7) {
    step |= (uint64_t)(event[at] & 0x7F) << shift;
    if (event[at] < 0x80) return (int64_t)step;
  }
  return -1;
}

/* How many bytes of the file are whole records up to resume_step. */
static size_t kept_bytes(const FileMap *map, int64_t resume_step) {
  const unsigned char *bytes = (const unsigned char *)map->data;
  size_t at = 0;
  while (map->length - at >= RECORD_HEAD + RECORD_TAIL) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | bytes[at + (size_t)i];
    if (length > map->length - at - RECORD_HEAD - RECORD_TAIL) break;
    int64_t step = step_of(bytes + at + RECORD_HEAD, length);
    if (step < 0 || step > resume_step) break;
    at += RECORD_HEAD + length + RECORD_TAIL;
  }
  return at;
}

Status events_open(Arena *arena, const char *path, int64_t resume_step, EventFile *out) {
  *out =
      (EventFile){.path = arena_strdup(arena, path), .summary = {.arena = arena}, .record = {.arena = arena}};
  size_t keep = 0;
  if (resume_step > 0 && file_exists(path)) {
    FileMap map;
    TRY(file_map(path, &map));
    keep = kept_bytes(&map, resume_step);
    file_unmap(&map);
  }
  out->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (out->fd < 0 || ftruncate(out->fd, (off_t)keep) != 0)
    return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", path, strerror(errno));
  if (keep > 0) return OK;
  begin_event(out, (double)time(NULL));
  add_bytes(&out->record, EVENT_FILE_VERSION, "brain.Event:2", strlen("brain.Event:2"));
  return append(out);
}

Status events_sync(const EventFile *file) {
  if (fsync(file->fd) == 0) return OK;
  return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", file->path,
              strerror(errno));
}

void events_close(EventFile *file) {
  if (file->fd >= 0) close(file->fd);
  file->fd = -1;
}
