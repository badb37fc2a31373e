/* popalm: the table of commands, signals, and the one place where an error is printed. */
#include <omp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/comm.h"
#include "base/text.h"
#include "commands.h"
#include "progress.h"

typedef enum Group { GROUP_RUN, GROUP_DATA, GROUP_MACHINE } Group;

static const char *const group_titles[] = {
    [GROUP_RUN] = "Experiments",
    [GROUP_DATA] = "Data and models",
    [GROUP_MACHINE] = "This machine and this program",
};

typedef struct Command {
  Group group;
  const char *name;
  Status (*run)(Arena *arena, int argc, char **argv);
  const char *help; /* one line */
} Command;

/* Group by group: the usage is printed in this order. */
static const Command commands[] = {
    {GROUP_RUN, "run", command_run, "run an experiment or its ablation; resumes and reuses"},
    {GROUP_RUN, "check", command_check, "validate an experiment and print its plan"},
    {GROUP_RUN, "schema", command_schema, "the keys of an experiment file, as JSON schema or as a page"},
    {GROUP_RUN, "runs", command_runs, "runs and stages: size, age, and which runs use a stage"},
    {GROUP_RUN, "clean", command_clean, "remove the stages that no run uses, after asking"},
    {GROUP_RUN, "report", command_report, "rebuild report.html from a run directory"},
    {GROUP_DATA, "generate", command_generate,
     "the most popular replies that a trained model predicts under a post"},
    {GROUP_DATA, "score", command_score, "the rewards of given replies, by a trained reward model"},
    {GROUP_DATA, "import", command_import, "a model folder from a Hugging Face folder or a GGUF file"},
    {GROUP_DATA, "export", command_export, "a model as a Hugging Face folder or a GGUF file"},
    {GROUP_DATA, "data", command_data,
     "synth, stats, pairs, convert: data files made, audited and turned over"},
    {GROUP_MACHINE, "devices", command_devices, "backends, GPUs, memory, threads, libraries"},
    {GROUP_MACHINE, "bench", command_bench,
     "how fast the operations are, and how near to the device's limits"},
    {GROUP_MACHINE, "version", command_version, "version, commit and build"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *out) {
  fputs("usage: popalm COMMAND [ARGUMENT...]\n", out);
  for (int i = 0; i < COMMANDS; i++) {
    if (i == 0 || commands[i].group != commands[i - 1].group)
      fprintf(out, "\n%s\n", group_titles[commands[i].group]);
    fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
  }
  fputs("\npopalm COMMAND --help describes a command.\n", out);
}

static Status find_command(const char *word, const Command **out) {
  const char *names[COMMANDS];
  for (int i = 0; i < COMMANDS; i++) {
    names[i] = commands[i].name;
    if (strcmp(word, names[i]) == 0) {
      *out = &commands[i];
      return OK;
    }
  }
  const char *near = nearest_name(word, names, COMMANDS);
  if (near) return fail(INVALID, "popalm: unknown command \"%s\"; did you mean \"%s\"?", word, near);
  return fail(INVALID, "popalm: unknown command \"%s\"; popalm --help lists the commands", word);
}

/* popalm help [COMMAND] and popalm --version are other ways to write commands that there are. */
__attribute__((noinline)) static Status dispatch(Arena *arena, int argc, char **argv) {
  if (argc < 2) {
    print_usage(stderr);
    return INVALID;
  }
  char *word = argv[1], *help[] = {NULL, "--help", NULL};
  bool asks_help = strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
  if (asks_help && argc == 2) {
    print_usage(stdout);
    return OK;
  }
  if (strcmp(word, "--version") == 0) word = argv[1] = "version";
  const Command *command = NULL;
  TRY(find_command(asks_help ? argv[2] : word, &command));
  if (!asks_help) return command->run(arena, argc - 1, argv + 1);
  help[0] = argv[2];
  return command->run(arena, 2, help);
}

/* The first signal asks; with SA_RESETHAND the second one kills. */
static void on_signal(int number) {
  (void)number;
  interrupted = 1;
}

static void handle_signals(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL); /* what mpirun and Slurm pass on without ending the job themselves */
}

static sigjmp_buf out_of_memory;

/* A jump out of a parallel region would leave its threads waiting, so there the process ends at once. */
static void on_exhausted(size_t bytes) {
  Status status =
      fail(FAILED, "popalm: out of memory for %zu bytes; use a smaller model, batch or data set", bytes);
  if (!omp_in_parallel()) siglongjmp(out_of_memory, status);
  fprintf(stderr, "%s\n", error_message());
  _exit(status);
}

/* Runs the command in a function of its own, so that main holds nothing that the jump could spoil. */
static Status run_guarded(Arena *arena, int argc, char **argv) {
  int jumped = sigsetjmp(out_of_memory, 1);
  return jumped ? (Status)jumped : dispatch(arena, argc, argv);
}

static void say_error(Status status) {
  if (comm.size == 1 || status == INTERRUPTED) {
    progress_say("%s", error_message());
    return;
  }
  if (comm_may_speak()) fprintf(stderr, "rank %d: %s\n", comm.rank, error_message());
}

int main(int argc, char **argv) {
  Arena arena = {0};
  handle_signals();
  arena_exhausted = on_exhausted;
  Status status = run_guarded(&arena, argc, argv);
  if (fflush(stdout) != 0 && status == OK)
    status = fail(FAILED, "popalm: the output could not be written; is the disk full?");
  if (status != OK && *error_message()) say_error(status);
  comm_end(status);
  arena_free(&arena);
  return status;
}
