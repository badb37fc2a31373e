#include "stage_memory.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "base/resident.h"
#include "prompt.h"
#include "trainer.h"

/* Of a synthetic world that is not made yet, measured on one: bytes of a text with what stands around it, of
 * a pair, and the pairs of a post. */
enum { WORLD_TEXT_BYTES = 46, WORLD_PAIR_BYTES = 200, WORLD_PAIRS = 4 };

static const double SAME = 0.01; /* of two statements of one setting, with another number of threads */

static size_t file_size(const char *path) {
  struct stat info;
  return path && stat(path, &info) == 0 ? (size_t)info.st_size : 0;
}

static size_t posts_size(const Experiment *e, const char *path, int posts) {
  size_t size = file_size(path);
  if (size || !e->data.synth) return size;
  return (size_t)posts * (1 + (size_t)e->data.world.replies_per_post) * WORLD_TEXT_BYTES;
}

static size_t pairs_size(const Experiment *e, const char *path) {
  size_t size = file_size(path);
  if (size || !e->data.synth) return size;
  return (size_t)e->data.world.train_posts * 3 / 2 * WORLD_PAIRS * WORLD_PAIR_BYTES;
}

static const char *tokenizer_file(Arena *arena, const StageContext *context) {
  const Experiment *e = context->experiment;
  const char *trained = context->input[STAGE_TOKENIZER]
                            ? path_join(arena, context->input[STAGE_TOKENIZER], "tokenizer.json")
                            : NULL;
  if (trained && file_exists(trained)) return trained;
  if (e->tokenizer.path) return e->tokenizer.path;
  return e->model_from ? path_join(arena, e->model_from, "tokenizer.json") : NULL;
}

/* Tokens before every post, and the vocabulary of a model that takes it from its tokenizer. */
static Status ask_tokenizer(Arena *arena, const StageContext *context, DecoderConfig *model,
                            MemoryQuestion *question) {
  const char *path = tokenizer_file(arena, context);
  question->tokenizer = file_size(path);
  if (!model->vocab) model->vocab = context->experiment->tokenizer.vocab_size;
  if (!question->tokenizer) return OK;
  Tokenizer *tokenizer;
  Arena scratch = {0};
  Status status = tokenizer_load(&scratch, path, &tokenizer);
  if (status == OK) {
    PromptCodec codec = prompt_codec(&scratch, tokenizer, context->experiment->data.instruction, 1, 1);
    question->prompt_start = codec.instruction_count;
    if (!context->experiment->model_from && !question->model) model->vocab = tokenizer_vocab_size(tokenizer);
  }
  arena_free(&scratch);
  return status;
}

Status stage_memory(Arena *arena, const Stage *stage, const StageContext *context, const char *kind,
                    const DecoderConfig *described, StageMemory *out) {
  const Experiment *e = context->experiment;
  *out = (StageMemory){0};
  if (!stage->memory) return OK;
  DecoderConfig model;
  MemoryQuestion question = {.experiment = e, .kind = kind, .model = described};
  resident_reset(); /* what was read before is given back */
  size_t program = resident_bytes();
  if (described)
    model = *described;
  else
    TRY(experiment_model(arena, e, &model));
  TRY(ask_tokenizer(arena, context, &model, &question));
  question.model = &model;
  if (stage->reads_train) question.files += posts_size(e, context->train, e->data.world.train_posts);
  if (stage->reads_dev) question.files += posts_size(e, context->dev, e->data.world.dev_posts);
  if (stage->reads_pairs) question.files += pairs_size(e, context->pairs);
  out->need = stage->memory(&question);
  out->process = program + out->need.data + (strcmp(kind, "cpu") == 0 ? out->need.device : 0);
  return OK;
}

void stage_memory_start(Backend *backend) {
  resident_reset();
  if (backend) backend->peak(backend, true);
}

void stage_memory_measure(Backend *backend, StageMemory *memory) {
  memory->measured = true;
  memory->process_peak = resident_peak();
  memory->device_peak = backend->peak(backend, false);
}

/* ---- stage.json ---- */

static const struct {
  const char *key;
  size_t offset;
} rows[] = {{"device_stated", offsetof(StageMemory, need.device)},
            {"device_peak", offsetof(StageMemory, device_peak)},
            {"process_stated", offsetof(StageMemory, process)},
            {"process_peak", offsetof(StageMemory, process_peak)}};
enum { ROWS = sizeof rows / sizeof *rows };

void stage_memory_add(cJSON *marker, const StageMemory *memory) {
  cJSON *object = cJSON_AddObjectToObject(marker, "memory");
  for (int i = 0; i < ROWS; i++)
    cJSON_AddNumberToObject(object, rows[i].key,
                            (double)*(const size_t *)(const void *)((const char *)memory + rows[i].offset));
}

void stage_memory_read(const cJSON *marker, StageMemory *memory) {
  const cJSON *object = cJSON_GetObjectItemCaseSensitive(marker, "memory");
  const cJSON *stated = cJSON_GetObjectItemCaseSensitive(object, "device_stated"),
              *device = cJSON_GetObjectItemCaseSensitive(object, "device_peak"),
              *process = cJSON_GetObjectItemCaseSensitive(object, "process_peak");
  if (!cJSON_IsNumber(stated) || !cJSON_IsNumber(device) || !cJSON_IsNumber(process)) return;
  /* What changes no result is no part of a stage's key, so it may have run with other memory settings. */
  double now = (double)memory->need.device;
  memory->measured = fabs(stated->valuedouble - now) <= SAME * now;
  memory->device_peak = (size_t)device->valuedouble;
  memory->process_peak = (size_t)process->valuedouble;
}
