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
  const char *folder = context->input[STAGE_TOKENIZER];
  const char *trained = folder ? path_join(arena, folder, "tokenizer.json") : NULL;
  if (trained && file_exists(trained)) return trained;
  if (e->tokenizer.path) return e->tokenizer.path;
  return e->model_from ? path_join(arena, e->model_from, "tokenizer.json") : NULL;
}

/* Tokens before every post; also the size of a vocabulary, where that is the tokenizer's. */
static Status ask_tokenizer(const StageContext *context, const char *path, int *start, int *vocab) {
  Tokenizer *tokenizer;
  Arena scratch = {0};
  Status status = tokenizer_load(&scratch, path, &tokenizer);
  if (status == OK) {
    *start = prompt_codec(&scratch, tokenizer, context->experiment->data.instruction, 1, 1).instruction_count;
    if (!*vocab) *vocab = tokenizer_vocab_size(tokenizer);
  }
  arena_free(&scratch);
  return status;
}

/* The policy's and the reward model's shapes, vocabularies and starts. */
static Status describe(Arena *arena, const StageContext *context, const DecoderConfig *described,
                       DecoderConfig *model, DecoderConfig *reward, MemoryQuestion *question) {
  const Experiment *e = context->experiment;
  const char *path = tokenizer_file(arena, context);
  if (described) {
    *model = *reward = *described;
    if (e->reward.init != REWARD_INIT_SFT) *reward = decoder_without_adapter(described);
  } else {
    TRY(experiment_model(arena, e, model));
    TRY(experiment_reward_model(arena, e, reward));
  }
  question->tokenizer = file_size(path);
  if (described && !model->vocab) model->vocab = e->tokenizer.vocab_size;
  if (question->tokenizer) TRY(ask_tokenizer(context, path, &question->prompt_start, &model->vocab));
  if (!model->vocab) model->vocab = e->tokenizer.vocab_size;
  question->reward_start = question->prompt_start;
  if (e->reward.from && !described) {
    path = path_join(arena, e->reward.from, "tokenizer.json");
    question->tokenizer += file_size(path);
    TRY(ask_tokenizer(context, path, &question->reward_start, &reward->vocab));
  }
  if (!reward->vocab) reward->vocab = model->vocab;
  question->model = model;
  question->reward = reward;
  return OK;
}

Status stage_memory(Arena *arena, const Stage *stage, const StageContext *context, const char *kind,
                    const DecoderConfig *described, StageMemory *out) {
  const Experiment *e = context->experiment;
  *out = (StageMemory){0};
  if (!stage->memory) return OK;
  DecoderConfig model, reward;
  MemoryQuestion question = {.experiment = e, .kind = kind};
  resident_reset(); /* what was read before is given back */
  size_t program = resident_bytes();
  TRY(describe(arena, context, described, &model, &reward, &question));
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
