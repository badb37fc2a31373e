/* popalm import: a model of other tools becomes a folder that an experiment starts from and generate reads.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "model_files.h"
#include "models/import.h"
#include "options.h"
#include "prompt.h"

static const Option options[] = {
    {"--context", "N", "the longest sequence that shall be possible [the model's]"},
};

static const CommandLine line = {
    .usage = "popalm import SOURCE OUT [options]",
    .summary =
        "Makes a model folder OUT from a Hugging Face folder (config.json, model.safetensors or its parts,\n"
        "tokenizer.json) or from a GGUF file: GPT-2, Llama, Mistral, Qwen2, Qwen3, SmolLM2. An experiment\n"
        "starts from it with \"model\": {\"from\": \"OUT\"}; popalm generate OUT answers with it.",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .min_positional = 2,
    .max_positional = 2};

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The tokenizer in a GGUF file's keys, as files in out; *why says why there is none. */
static Status unpack_tokenizer(Arena *arena, const GgufFile *file, const char *out, const char **why) {
  cJSON *tokenizer = NULL;
  TRY(import_gguf_tokenizer(arena, file, &tokenizer, why));
  if (!tokenizer) return OK;
  *why = NULL;
  cJSON *config = import_gguf_tokenizer_config(arena, file);
  Status status = json_write(path_join(arena, out, "tokenizer.json"), tokenizer);
  if (status == OK) status = json_write(path_join(arena, out, "tokenizer_config.json"), config);
  cJSON_Delete(tokenizer);
  cJSON_Delete(config);
  return status;
}

static double setting(const Json *json, const char *key, double otherwise) {
  const cJSON *item = json->root ? cJSON_GetObjectItemCaseSensitive(json->root, key) : NULL;
  return cJSON_IsNumber(item) && item->valuedouble >= 0 ? item->valuedouble : otherwise;
}

/* prompt.json and tokenizer.json, which generate reads: the sampling of the source's generation_config.json,
 * lengths that fit the context. */
static Status write_prompt(Arena *arena, const char *source, const char *out, const DecoderConfig *config,
                           const Tokenizer *tokenizer) {
  const char *path = path_join(arena, source, "generation_config.json");
  Json json = {0};
  if (file_exists(path)) TRY(json_read(arena, path, &json));
  SamplingSettings sampling = {.temperature = setting(&json, "temperature", 1),
                               .top_p = setting(&json, "top_p", 1),
                               .top_k = (int)setting(&json, "top_k", 0)};
  json_free(&json);
  int half = config->max_positions / 2, quarter = config->max_positions / 4;
  PromptCodec codec =
      prompt_codec(arena, tokenizer, "", half < 512 ? half : 512, quarter < 128 ? quarter : 128);
  return prompt_save(&codec, &sampling, out);
}

/* The weights without a tokenizer are a model too: what keeps it from generating is said, not an error. The
 * source's own files come last, since they say more than what was read of them. */
static Status add_tokenizer(Arena *arena, const ForeignModel *model, const char *out) {
  bool gguf = model->outside == OUTSIDE_GGUF;
  const char *why = NULL, *source = gguf ? out : model->path;
  Tokenizer *tokenizer = NULL;
  if (gguf) TRY(unpack_tokenizer(arena, &model->gguf, out, &why));
  if (!why && tokenizer_load(arena, source, &tokenizer) != OK) why = arena_strdup(arena, error_message());
  if (!why && tokenizer_vocab_size(tokenizer) > model->config.vocab)
    why = arena_print(arena, "its tokenizer has %d tokens, the model %d", tokenizer_vocab_size(tokenizer),
                      model->config.vocab);
  if (!why) TRY(write_prompt(arena, source, out, &model->config, tokenizer));
  TRY(gguf ? unpack_tokenizer(arena, &model->gguf, out, &(const char *){NULL})
           : model_files_copy(arena, model->path, out));
  if (why) printf("without a tokenizer: %s; set \"tokenizer.path\" in an experiment\n", why);
  return OK;
}

static Status convert(Arena *arena, ForeignModel *model, const char *out) {
  TRY(import_write(arena, model, out));
  const DecoderConfig *c = &model->config;
  printf("imported %s (%s: %d layers, hidden %d, %d heads, vocabulary %d, context %d) to %s\n", model->path,
         family_name(model->family), c->layers, c->hidden, c->heads, c->vocab, c->max_positions, out);
  return add_tokenizer(arena, model, out);
}

Status command_import(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *source = arguments.positional[0], *out = arguments.positional[1];
  int64_t context;
  TRY(option_int(&arguments, "--context", 0, 1 << 24, 0, &context));
  if (file_exists(path_join(arena, out, "model.safetensors")))
    return fail(INVALID, "%s: has a model.safetensors already; choose another folder", out);
  ForeignModel model;
  if (is_folder(source))
    TRY(import_open_hf(arena, source, (int)context, &model));
  else
    TRY(import_open_gguf(arena, source, (int)context, &model));
  Status status = convert(arena, &model, out);
  import_close(&model);
  return status;
}
