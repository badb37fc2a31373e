#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
static const size_t stack_size = 256 * 1024; /* the sanitizer widens every frame */
#elif defined(EMULATOR_RACES)
#include "races.h"
static const size_t stack_size = 128 * 1024;
#else
static const size_t stack_size = 64 * 1024;
#endif

static Fiber *leaving; /* the fiber that the switch in progress came from */

#if defined(__SANITIZE_ADDRESS__)
static void announce(Fiber *from, Fiber *to) {
  leaving = from;
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
}

static void arrived(Fiber *self) {
  const void *bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self ? self->fake_stack : nullptr, &bottom, &bytes);
  if (leaving && !leaving->stack) { /* the program's own stack is learnt when it is first left */
    leaving->stack = static_cast<unsigned char *>(const_cast<void *>(bottom));
    leaving->stack_bytes = bytes;
  }
}
#elif defined(EMULATOR_RACES)
static void announce(Fiber *from, Fiber *to) {
  if (!from->race_fiber) from->race_fiber = __tsan_get_current_fiber(); /* the program */
  leaving = from;
  fiber_pose(to);
}
static void arrived(Fiber *) {}
#else
static void announce(Fiber *from, Fiber *) { leaving = from; }
static void arrived(Fiber *) {}
#endif

#if defined(EMULATOR_RACES)
/* The program does not wait a second at its end for races of threads that go on: there are none. */
extern "C" const char *__tsan_default_options() { return "atexit_sleep_ms=0"; }

void fiber_name(const Fiber *fiber, const char *name) { __tsan_set_fiber_name(fiber->race_fiber, name); }
void fiber_pose(const Fiber *as) { __tsan_switch_to_fiber(as->race_fiber, __tsan_switch_to_fiber_no_sync); }
#else
void fiber_name(const Fiber *, const char *) {}
void fiber_pose(const Fiber *) {}
#endif

static void allocate_stack(Fiber *fiber) {
  if (fiber->stack) return;
#if defined(EMULATOR_RACES)
  fiber->race_fiber = __tsan_create_fiber(0); /* here, since it begins after what its creator has done */
#endif
  /* The lowest page is left without access: an overflow stops the test instead of spoiling the next stack. */
  void *memory = mmap(nullptr, stack_size + 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, 4096, PROT_NONE) != 0) {
    perror("emulator: no memory for a thread's stack");
    abort();
  }
  fiber->stack = static_cast<unsigned char *>(memory) + 4096;
  fiber->stack_bytes = stack_size;
}

void fiber_started() { arrived(nullptr); }

#if defined(__x86_64__)

extern "C" void popalm_fiber_switch(void **save, void *load);
asm(R"(
.text
.globl popalm_fiber_switch
.type popalm_fiber_switch, @function
popalm_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size popalm_fiber_switch, .-popalm_fiber_switch
)");

void fiber_prepare(Fiber *fiber, void (*entry)()) {
  allocate_stack(fiber);
  uintptr_t *top = reinterpret_cast<uintptr_t *>(fiber->stack + fiber->stack_bytes);
#if defined(__SANITIZE_ADDRESS__)
  if (fiber->stack_pointer) { /* the frames that it was in when it was left for the last time */
    unsigned char *lowest = static_cast<unsigned char *>(fiber->stack_pointer);
    __asan_unpoison_memory_region(lowest, static_cast<size_t>(fiber->stack + fiber->stack_bytes - lowest));
  }
#endif
  *--top = 0; /* entry's return address: the stack pointer is 8 modulo 16 there, as after a call */
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; i++) *--top = 0;
  fiber->stack_pointer = top;
  fiber->fake_stack = nullptr;
}

void fiber_switch(Fiber *from, Fiber *to) {
  announce(from, to);
  popalm_fiber_switch(&from->stack_pointer, to->stack_pointer);
  arrived(from);
}

#else

#include <ucontext.h>

static ucontext_t *context_of(Fiber *fiber) {
  if (!fiber->context) fiber->context = new ucontext_t;
  return static_cast<ucontext_t *>(fiber->context);
}

void fiber_prepare(Fiber *fiber, void (*entry)()) {
  allocate_stack(fiber);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber->stack, fiber->stack_bytes);
#endif
  ucontext_t *context = context_of(fiber);
  getcontext(context);
  context->uc_stack.ss_sp = fiber->stack;
  context->uc_stack.ss_size = fiber->stack_bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber->fake_stack = nullptr;
}

void fiber_switch(Fiber *from, Fiber *to) {
  announce(from, to);
  swapcontext(context_of(from), context_of(to));
  arrived(from);
}

#endif
