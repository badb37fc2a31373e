#include "plan.h"

#include <string.h>

#include "base/hash.h"
#include "models/model.h"
#include "tokenizer.h"
#include "trainer.h"

const char *plan_stage_name(StageId id) {
  static const char *const names[STAGE_COUNT] = {"world",        "tokenizer", "sft",         "reward",
                                                 "evaluate-sft", "ppo",       "evaluate-ppo"};
  return names[id];
}

Status plan_find_stage(const char *name, StageId *out) {
  const char *names[STAGE_COUNT];
  *out = STAGE_EVALUATE_PPO;
  if (strcmp(name, "evaluate") == 0) return OK;
  for (StageId id = 0; id < STAGE_COUNT; id++) {
    names[id] = plan_stage_name(id);
    *out = id;
    if (strcmp(name, names[id]) == 0) return OK;
  }
  const char *near = nearest_name(name, names, STAGE_COUNT);
  return fail(
      INVALID,
      "\"%s\" is no stage; did you mean %s? The stages are world, tokenizer, sft, reward, evaluate-sft, "
      "ppo, evaluate-ppo",
      name, near ? near : "ppo");
}

/* ---- keys ---- */

/* Contents of files, each hashed once. */
typedef struct FileHash {
  const char *path;
  char hex[33];
  struct FileHash *next;
} FileHash;

typedef struct Keys {
  Arena *arena;
  Plan *plan;
  FileHash *files;
} Keys;

static Status content_of(Keys *keys, const char *path, const char **hex) {
  for (FileHash *known = keys->files; known; known = known->next)
    if (strcmp(known->path, path) == 0) {
      *hex = known->hex;
      return OK;
    }
  FileHash *added = NEW(keys->arena, FileHash, 1);
  Hash *hash = hash_new(keys->arena);
  TRY(hash_file(hash, path));
  hash_hex(hash, added->hex);
  added->path = path;
  added->next = keys->files;
  keys->files = added;
  *hex = added->hex;
  return OK;
}

/* The files that a key's value stands for. */
enum { MOST_FILES = TOKENIZER_FILES + 2 };

static Status files_of(Arena *arena, const char *path, const char *value, const char *files[MOST_FILES],
                       int *count) {
  *count = 1;
  files[0] = value;
  if (strcmp(path, "tokenizer.path") == 0) *count = tokenizer_files(arena, value, files);
  bool policys = strcmp(path, "model.from") == 0, rewards = strcmp(path, "reward.from") == 0;
  if (strcmp(path, "model.preset") == 0 || strcmp(path, "reward.preset") == 0)
    return decoder_preset_path(arena, value, &files[0]);
  if (!policys && !rewards) return OK;
  const char *base;
  files[0] = path_join(arena, value, "model.safetensors");
  TRY(model_base(arena, value, &base));
  if (base) files[(*count)++] = path_join(arena, base, "model.safetensors");
  if (rewards) /* the policy's is tokenizer.path */
    *count += tokenizer_files(arena, path_join(arena, value, "tokenizer.json"), files + *count);
  return OK;
}

/* A value and what it is called; for a file's name, the content of what is read by it. */
static Status add_value(Keys *keys, Hash *hash, const char *path, const cJSON *value) {
  hash_text(hash, path);
  if (cJSON_IsObject(value)) {
    for (const cJSON *child = value->child; child; child = child->next)
      TRY(add_value(keys, hash, arena_print(keys->arena, "%s.%s", path, child->string), child));
    return OK;
  }
  if (cJSON_IsString(value) && experiment_key_names_file(path)) {
    const char *files[MOST_FILES], *hex;
    int count;
    TRY(files_of(keys->arena, path, value->valuestring, files, &count));
    for (int i = 0; i < count; i++) {
      TRY(content_of(keys, files[i], &hex));
      hash_text(hash, hex);
    }
    return OK;
  }
  char *text = cJSON_PrintUnformatted(value);
  hash_text(hash, text);
  cJSON_free(text);
  return OK;
}

const cJSON *plan_section(const cJSON *resolved, const char *path) {
  const cJSON *at = resolved;
  while (at && *path) {
    char name[64] = {0};
    size_t length = strcspn(path, ".");
    memcpy(name, path, length < sizeof name - 1 ? length : sizeof name - 1);
    at = cJSON_GetObjectItemCaseSensitive(at, name);
    path += length + (path[length] == '.');
  }
  return at;
}

static Status add_data(Keys *keys, Hash *hash, const Stage *stage, const PlanStage *instance,
                       const DataSettings *data) {
  const struct {
    bool reads;
    const char *name, *path;
  } files[] = {{stage->reads_train, "train", data->train},
               {stage->reads_dev, "dev", data->dev},
               {stage->reads_pairs, "pairs", data->pairs}};
  for (int i = 0; i < 3; i++) {
    if (!files[i].reads) continue;
    const char *content;
    if (data->synth)
      content = keys->plan->stages[instance->input[STAGE_WORLD]].key;
    else
      TRY(content_of(keys, files[i].path, &content));
    hash_text(hash, files[i].name);
    hash_text(hash, content);
  }
  return OK;
}

static Status make_key(Keys *keys, const Experiment *experiment, PlanStage *instance) {
  const Stage *stage = &keys->plan->table[instance->id];
  Hash *hash = hash_new(keys->arena);
  hash_text(hash, arena_print(keys->arena, "format %d", STAGE_FORMAT));
  hash_text(hash, stage->name);
  hash_text(hash, stage->needs_backend ? keys->plan->backend : "");
  for (int i = 0; i < (int)(sizeof stage->sections / sizeof *stage->sections) && stage->sections[i]; i++)
    TRY(add_value(keys, hash, stage->sections[i], plan_section(experiment->resolved, stage->sections[i])));
  for (int i = 0; i < stage->input_count; i++) {
    int input = instance->input[stage->inputs[i]];
    if (input < 0) continue; /* not read */
    hash_text(hash, plan_stage_name(stage->inputs[i]));
    hash_text(hash, keys->plan->stages[input].key);
  }
  TRY(add_data(keys, hash, stage, instance, &experiment->data));
  hash_hex(hash, instance->key);
  return OK;
}

/* ---- instances ---- */

bool plan_stage_started(Arena *arena, const PlanStage *stage) {
  const char *state = path_join(arena, stage->folder, "state.safetensors");
  return file_exists(state) || file_exists(arena_print(arena, "%s.previous", state));
}

static Status look_at_folder(const Plan *plan, Arena *arena, PlanStage *instance) {
  const char *name = plan->table[instance->id].name;
  instance->folder = arena_print(arena, "%s/stages/%s-%.16s", plan->out, name, instance->key);
  instance->finished = file_exists(path_join(arena, instance->folder, "stage.json"));
  instance->started = !instance->finished && plan_stage_started(arena, instance);
  return OK;
}

/* Adds the stage of a run, or finds the instance that another run has brought. */
static Status add_stage(Keys *keys, int run, StageId id) {
  Plan *plan = keys->plan;
  const Experiment *experiment = &plan->file->runs[run].experiment;
  const Stage *stage = &plan->table[id];
  PlanStage instance = {.id = id, .first_run = run, .users = 1};
  for (int i = 0; i < STAGE_COUNT; i++) instance.input[i] = -1;
  bool inputs = !stage->reads_inputs || stage->reads_inputs(experiment);
  for (int i = 0; i < stage->input_count && inputs; i++)
    instance.input[stage->inputs[i]] = plan->of_run[run][stage->inputs[i]];
  bool reads = stage->reads_train || stage->reads_dev || stage->reads_pairs;
  if (reads && experiment->data.synth) instance.input[STAGE_WORLD] = plan->of_run[run][STAGE_WORLD];
  TRY(make_key(keys, experiment, &instance));
  int at = 0;
  while (at < plan->count && strcmp(plan->stages[at].key, instance.key) != 0) at++;
  plan->of_run[run][id] = at;
  if (at < plan->count) {
    plan->stages[at].users++;
    return OK;
  }
  TRY(look_at_folder(plan, keys->arena, &instance));
  plan->stages[plan->count++] = instance;
  return OK;
}

/* The stage's name, with the arm when only one arm has it, and the seed when only one seed has. */
static const char *make_label(Arena *arena, const Plan *plan, int index) {
  const PlanStage *instance = &plan->stages[index];
  const ExperimentRun *first = &plan->file->runs[instance->first_run];
  bool one_arm = plan->file->arm_count > 1, one_seed = plan->file->seed_count > 1;
  for (int run = 0; run < plan->file->run_count; run++) {
    if (plan->of_run[run][instance->id] != index) continue;
    one_arm = one_arm && strcmp(plan->file->runs[run].arm, first->arm) == 0;
    one_seed = one_seed && plan->file->runs[run].experiment.seed == first->experiment.seed;
  }
  Text label = {.arena = arena};
  text_print(&label, "%s", plan_stage_name(instance->id));
  if (one_arm) text_print(&label, " %s", first->arm);
  if (one_seed) text_print(&label, " seed %llu", (unsigned long long)first->experiment.seed);
  return label.data;
}

/* For messages: what takes a part of a model's positions. */
static const char *behind_prefix(Arena *arena, const DecoderConfig *config) {
  return config->prefix_tokens ? arena_print(arena, " behind a prefix of %d", config->prefix_tokens) : "";
}

/* A post and reply that do not fit a model's context are found before anything runs; the instruction's length
 * is known only with the tokenizer, when prompt_check looks again. */
static Status check_reward_context(Arena *arena, const char *path, const Experiment *experiment) {
  DecoderConfig config;
  TRY(experiment_reward_model(arena, experiment, &config));
  const char *name = reward_model_name(experiment);
  int post = reward_post_tokens(experiment), reply = reward_reply_tokens(experiment);
  int policys = experiment->data.max_post_tokens + experiment->data.max_reply_tokens + 2;
  if (post + reply + 2 > decoder_context(&config))
    return fail(
        INVALID,
        "%s: a post of %d tokens with a reply of %d%s does not fit the %d positions of the reward model %s; "
        "lower \"reward.max_post_tokens\" or \"reward.max_reply_tokens\"",
        path, post, reply, behind_prefix(arena, &config), config.max_positions, name);
  if (experiment->ppo.critic == CRITIC_REWARD && policys > decoder_context(&config))
    return fail(
        INVALID,
        "%s: the critic reads what the policy reads, %d tokens%s, which do not fit the %d positions of the "
        "reward model %s; use \"ppo.critic\": \"shared\"",
        path, policys, behind_prefix(arena, &config), config.max_positions, name);
  return OK;
}

static Status check_context(Arena *arena, const char *path, const Experiment *experiment) {
  DecoderConfig config;
  TRY(experiment_model(arena, experiment, &config));
  int longest = experiment->data.max_post_tokens + experiment->data.max_reply_tokens + 2;
  if (longest <= decoder_context(&config)) return OK;
  return fail(INVALID,
              "%s: a post of %d tokens with a reply of %d%s does not fit the %d positions of model %s; lower "
              "\"data.max_post_tokens\" or \"data.max_reply_tokens\"%s",
              path, experiment->data.max_post_tokens, experiment->data.max_reply_tokens,
              behind_prefix(arena, &config), config.max_positions, policy_model_name(experiment),
              config.prefix_tokens ? " or \"adapter.prefix_tokens\"" : "");
}

Status plan_make(Arena *arena, const ExperimentFile *file, const Stage *table, const char *out, StageId until,
                 Plan *plan) {
  *plan = (Plan){.table = table, .file = file, .out = out, .until = until};
  plan->stages = NEW(arena, PlanStage, file->run_count * STAGE_COUNT);
  plan->of_run = (int(*)[STAGE_COUNT])arena_alloc_array(arena, sizeof *plan->of_run, (size_t)file->run_count);
  plan->stops = NEW(arena, PlanStop, file->run_count);
  Keys keys = {.arena = arena, .plan = plan};
  for (int run = 0; run < file->run_count; run++) {
    const Experiment *experiment = &file->runs[run].experiment;
    TRY(check_context(arena, file->path, experiment));
    TRY(check_reward_context(arena, file->path, experiment));
    TRY(backend_kind(experiment->device, &plan->backend));
    for (StageId id = 0; id < STAGE_COUNT; id++) {
      plan->of_run[run][id] = -1;
      if (id > until || (id == STAGE_WORLD && !experiment->data.synth)) continue;
      TRY(add_stage(&keys, run, id));
    }
  }
  for (int i = 0; i < plan->count; i++) plan->stages[i].label = make_label(arena, plan, i);
  return OK;
}
