/* Fibers: stacks that one thread switches between, for the threads of an emulated block. Own assembly on
 * x86-64 (a few nanoseconds a switch), ucontext elsewhere; the address sanitizer is told of every switch,
 * the thread sanitizer as well. */
#ifndef POPALM_FIBER_H
#define POPALM_FIBER_H

#include <stddef.h>

struct Fiber {
  void *stack_pointer = nullptr;  /* x86-64: where its registers lie while it does not run */
  unsigned char *stack = nullptr; /* lowest address; nullptr: the program's own stack */
  size_t stack_bytes = 0;
  void *context = nullptr;    /* elsewhere: its ucontext_t */
  void *fake_stack = nullptr; /* the address sanitizer's */
  void *race_fiber = nullptr; /* the thread sanitizer's */
};

/* Makes the fiber run entry() from its beginning at the next switch to it; entry must not return. The stack
 * is allocated at the first use and kept. */
void fiber_prepare(Fiber *fiber, void (*entry)());
/* Leaves `from`, goes on in `to`. */
void fiber_switch(Fiber *from, Fiber *to);
/* To be called first in entry(): completes the switch that started it. */
void fiber_started();
/* For the reports of the thread sanitizer. */
void fiber_name(const Fiber *fiber, const char *name);
/* What the running fiber does counts as done by `as` until it is called with the running fiber itself. */
void fiber_pose(const Fiber *as);

#endif
