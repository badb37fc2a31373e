/* popalm export: a model of ours for other tools. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "model_files.h"
#include "models/import.h"
#include "options.h"
#include "tokenizer.h"

static const Option options[] = {
    {"--format", "hf|gguf|peft",
     "Hugging Face folder or GGUF file [gguf when OUT ends in .gguf]; an adapter alone as PEFT's files"},
    {"--type", "f32|f16|bf16|q8_0", "how weights are stored; q8_0 only in GGUF [f32, in GGUF f16]"},
};

static const CommandLine line = {
    .usage = "popalm export MODEL OUT [options]",
    .summary =
        "Writes a model (a folder with model.safetensors: an imported one, or that of a stage, such as\n"
        "runs/quickstart/arms/cl-ppo/seed-1/ppo) as a folder that transformers loads, or as a GGUF file.\n"
        "An adapter is merged into its base, unless it goes out alone (peft); a prefix only goes out alone.\n"
        "Reward and value heads stay behind: other tools have no place for them.",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .min_positional = 2,
    .max_positional = 2};

static Status find_type(const char *name, bool gguf, ElementType *out) {
  static const struct {
    const char *name;
    ElementType type;
  } types[] = {{"f32", ELEMENT_F32}, {"f16", ELEMENT_F16}, {"bf16", ELEMENT_BF16}, {"q8_0", ELEMENT_Q8_0}};
  for (int i = 0; i < 4; i++) {
    *out = types[i].type;
    if (strcmp(name, types[i].name) == 0 && (gguf || *out != ELEMENT_Q8_0)) return OK;
  }
  return fail(INVALID, "popalm export: --type %s is not a type of this format; use f32, f16%s", name,
              gguf ? ", bf16 or q8_0" : " or bf16");
}

/* The end token, -1 when there is no tokenizer that is read. */
static int find_eos(Arena *arena, const char *path) {
  Tokenizer *tokenizer;
  if (!file_exists(path) || tokenizer_load(arena, path, &tokenizer) != OK) return -1;
  return tokenizer_eos(tokenizer);
}

static Status write_hf(Arena *arena, const OwnModel *model, const char *folder, const char *out,
                       ElementType type) {
  if (file_exists(path_join(arena, out, "model.safetensors")))
    return fail(INVALID, "%s: has a model.safetensors already; choose another folder", out);
  TRY(export_hf(arena, model, out, type, find_eos(arena, path_join(arena, folder, "tokenizer.json"))));
  TRY(model_files_copy(arena, folder, out));
  const char *description = path_join(arena, out, "tokenizer_config.json");
  if (!file_exists(path_join(arena, out, "tokenizer.json")) || file_exists(description)) return OK;
  static const char generic[] = "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n";
  return file_write(description, generic, sizeof generic - 1);
}

static Status write_gguf(Arena *arena, const OwnModel *model, const char *folder, const char *out,
                         ElementType type) {
  const char *path = path_join(arena, folder, "tokenizer.json");
  if (!file_exists(path)) {
    printf("without a tokenizer: there is no %s\n", path);
    return export_gguf(arena, model, out, type, -1, NULL);
  }
  Json tokenizer;
  TRY(json_read(arena, path, &tokenizer));
  Status status = export_gguf(arena, model, out, type, find_eos(arena, path), &tokenizer);
  json_free(&tokenizer);
  return status;
}

Status command_export(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *folder = arguments.positional[0], *out = arguments.positional[1];
  size_t length = strlen(out);
  bool named_gguf = length > 5 && strcmp(out + length - 5, ".gguf") == 0;
  const char *format = option_text(&arguments, "--format", named_gguf ? "gguf" : "hf");
  bool gguf = strcmp(format, "gguf") == 0;
  if (strcmp(format, "peft") == 0) return export_peft(arena, folder, out);
  if (!gguf && strcmp(format, "hf") != 0)
    return fail(INVALID, "popalm export: --format %s is none; use hf, gguf or peft", format);
  ElementType type;
  TRY(find_type(option_text(&arguments, "--type", gguf ? "f16" : "f32"), gguf, &type));
  OwnModel model;
  TRY(export_open(arena, folder, &model));
  Status status =
      gguf ? write_gguf(arena, &model, folder, out, type) : write_hf(arena, &model, folder, out, type);
  if (status == OK) printf("exported %s (%s) to %s\n", folder, family_name(model.family), out);
  export_close(&model);
  return status;
}
