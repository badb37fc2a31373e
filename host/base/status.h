/* The one error path: functions return a Status, the message is made where the fact is known,
 * and main prints it once. The values are the process's exit statuses. */
#ifndef POPALM_BASE_STATUS_H
#define POPALM_BASE_STATUS_H

typedef enum Status {
  OK = 0,
  FAILED = 1,       /* failed at run time */
  INVALID = 2,      /* wrong usage or an invalid input file */
  INTERRUPTED = 130 /* stopped by a signal, after saving */
} Status;

#define CHECKED __attribute__((warn_unused_result))

/* Records the message (one line: "file:line:column: what is wrong; what to do") and returns status. */
Status fail(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The message of the last fail() on this thread; "" if there was none. */
const char *error_message(void);

/* Leaves the calling function with the status of call unless it is OK. */
#define TRY(call)                  \
  do {                             \
    Status try_status_ = (call);   \
    if (try_status_ != OK) return try_status_; \
  } while (0)

/* Set to 1 by SIGINT and SIGTERM; long loops poll it, save, and return INTERRUPTED. */
extern volatile int interrupted;

#endif
