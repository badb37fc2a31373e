#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

volatile int interrupted = 0;

static _Thread_local char message[2048];

/* The text as the message: names in it come from files, so control characters are shown, not sent to a
 * terminal. */
static void one_line(const char *text) {
  size_t at = 0;
  for (; *text && at + 5 < sizeof message; text++) {
    unsigned char c = (unsigned char)*text;
    if (c >= 0x20 && c != 0x7F)
      message[at++] = *text;
    else
      at += (size_t)snprintf(message + at, sizeof message - at, "\\x%02X", c);
  }
  message[at] = 0;
}

Status fail(Status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char text[sizeof message]; /* the arguments may point into message itself */
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  one_line(text);
  return status;
}

const char *error_message(void) { return message; }
