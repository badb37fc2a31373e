#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

volatile int interrupted = 0;

static _Thread_local char message[2048];

Status fail(Status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char text[sizeof message]; /* the arguments may point into message itself */
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  snprintf(message, sizeof message, "%s", text);
  return status;
}

const char *error_message(void) { return message; }
