/* Models in and out: what goes out and comes in again is the same bits, and what a folder or a file says that
 * is not so, or that the decoder does not do, is refused in one line that says where. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fp16.h"
#include "models/import.h"
#include "models/model.h"
#include "testing.h"

#define FIXTURES "tests/fixtures/models/"

/* ---- folders ---- */

static Arena arena;
static char root[] = "/tmp/popalm-import-XXXXXX";
static int folders;

static const char *new_folder(void) {
  const char *folder = arena_print(&arena, "%s/%d", root, folders++);
  assert_int_equal(make_folders(folder), OK);
  return folder;
}

static Text read_file(const char *path) {
  FileMap map;
  if (file_map(path, &map) != OK) fail_msg("%s", error_message());
  Text text = {.arena = &arena};
  text_add(&text, map.data, map.length);
  file_unmap(&map);
  return text;
}

static void write_file(const char *path, const char *data, size_t length) {
  if (file_write(path, data, length) != OK) fail_msg("%s", error_message());
}

/* A fixture's folder, copied so that it can be damaged. */
static const char *copy_fixture(const char *name) {
  const char *folder = new_folder(), *from = arena_print(&arena, FIXTURES "%s", name);
  DIR *dir = opendir(from);
  assert_non_null(dir);
  for (struct dirent *entry; (entry = readdir(dir));) {
    if (entry->d_name[0] == '.') continue;
    Text text = read_file(path_join(&arena, from, entry->d_name));
    write_file(path_join(&arena, folder, entry->d_name), text.data, text.length);
  }
  closedir(dir);
  return folder;
}

/* Replaces the first `from` of a file by `to`. */
static void edit(const char *path, const char *from, const char *to) {
  Text text = read_file(path);
  char *at = memmem(text.data, text.length, from, strlen(from));
  if (!at) fail_msg("%s does not hold %s", path, from);
  Text edited = {.arena = &arena};
  size_t before = (size_t)(at - text.data);
  text_add(&edited, text.data, before);
  text_add(&edited, to, strlen(to));
  text_add(&edited, at + strlen(from), text.length - before - strlen(from));
  write_file(path, edited.data, edited.length);
}

static Status import_into(const char *source, bool gguf, int context, const char *out) {
  ForeignModel model;
  Status status = gguf ? import_open_gguf(&arena, source, context, &model)
                       : import_open_hf(&arena, source, context, &model);
  if (status != OK) return status;
  status = import_write(&arena, &model, out);
  import_close(&model);
  return status;
}

static const char *imported(const char *source, bool gguf) {
  const char *out = new_folder();
  if (import_into(source, gguf, 0, out) != OK) fail_msg("%s", error_message());
  return out;
}

static const char *exported(const char *folder, bool gguf, ElementType type) {
  OwnModel model;
  if (export_open(&arena, folder, &model) != OK) fail_msg("%s", error_message());
  const char *out = new_folder();
  if (gguf) out = path_join(&arena, out, "model.gguf");
  Status status =
      gguf ? export_gguf(&arena, &model, out, type, -1, NULL) : export_hf(&arena, &model, out, type, -1);
  if (status != OK) fail_msg("%s", error_message());
  export_close(&model);
  return out;
}

static void refused(Status status, const char *what, const char *const *words) {
  if (status != INVALID) fail_msg("%s was not refused", what);
  for (; *words; words++)
    if (!strstr(error_message(), *words))
      fail_msg("%s: \"%s\" does not say \"%s\"", what, error_message(), *words);
}
#define REFUSED(status, what, ...) refused(status, what, (const char *const[]){__VA_ARGS__, NULL})

/* ---- round trips ---- */

static void same_weights(const char *a, const char *b) {
  Text x = read_file(path_join(&arena, a, "model.safetensors")),
       y = read_file(path_join(&arena, b, "model.safetensors"));
  assert_int_equal(x.length, y.length);
  assert_memory_equal(x.data, y.data, x.length);
}

static void export_and_import_give_the_same_bits(void **state) {
  (void)state;
  static const struct {
    const char *name;
    ElementType type;
  } models[] = {{"gpt2", ELEMENT_F32},    {"smollm2", ELEMENT_F32}, {"llama-bias", ELEMENT_F32},
                {"mistral", ELEMENT_F32}, {"qwen2", ELEMENT_BF16},  {"qwen3", ELEMENT_F32},
                {"llama3", ELEMENT_F32}};
  for (int i = 0; i < 7; i++) {
    const char *first = imported(arena_print(&arena, FIXTURES "%s", models[i].name), false);
    same_weights(first, imported(exported(first, false, models[i].type), false));
    if (strcmp(models[i].name, "llama3") == 0) continue; /* GGUF keeps no scaling of rope */
    const char *gguf = exported(first, true, models[i].type), *again = imported(gguf, true);
    if (models[i].type == ELEMENT_F32)
      same_weights(first, again);
    else /* vectors become fp32 in GGUF; written out in bf16 they are what they were */
      same_weights(first, imported(exported(again, false, models[i].type), false));
  }
}

/* Tensors are moved about a million values at a time; these have up to three million, and pieces that end
 * inside of the queries, keys and values. */
static void tensors_of_several_pieces_go_out_and_in(void **state) {
  (void)state;
  Backend *backend;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  for (int gpt2 = 0; gpt2 < 2; gpt2++) {
    DecoderConfig config = {.vocab = 16,
                            .hidden = gpt2 ? 1024 : 1032,
                            .layers = 1,
                            .heads = 16,
                            .kv_heads = gpt2 ? 16 : 4,
                            .head_dim = 64,
                            .mlp = 1032,
                            .max_positions = 8,
                            .norm = gpt2 ? NORM_LAYER : NORM_RMS,
                            .norm_epsilon = 1e-5f,
                            .rope = !gpt2,
                            .rope_theta = 10000,
                            .activation = gpt2 ? ACTIVATION_GELU : ACTIVATION_SWIGLU,
                            .bias = gpt2,
                            .qkv_bias = gpt2,
                            .tied = true};
    Model model;
    const char *folder = new_folder();
    assert_int_equal(model_create(&arena, &model, backend, &config, NULL, (ModelParts){0}, false, 3), OK);
    assert_int_equal(model_save(&model, folder), OK);
    model_free(&model);
    SafeFile before;
    assert_int_equal(safetensors_open(&arena, path_join(&arena, folder, "model.safetensors"), &before), OK);
    for (int gguf = 0; gguf < 2; gguf++) {
      SafeFile after;
      const char *again = imported(exported(folder, gguf, ELEMENT_F32), gguf);
      assert_int_equal(safetensors_open(&arena, path_join(&arena, again, "model.safetensors"), &after), OK);
      assert_int_equal(before.count, after.count);
      for (int t = 0; t < before.count; t++) {
        const SafeTensor *a = &before.tensors[t], *b = safetensors_find(&after, a->name);
        if (memcmp(a->data, b->data, a->bytes) != 0) fail_msg("%s has changed", a->name);
      }
      safetensors_close(&after);
    }
    safetensors_close(&before);
  }
  backend->close(backend);
}

/* The tensors that go out are those that transformers saved, bit for bit. */
static void an_export_has_the_tensors_that_came_in(void **state) {
  (void)state;
  static const char *const models[] = {"gpt2", "smollm2", "llama-bias", "qwen2", "qwen3", "llama3"};
  for (int i = 0; i < 6; i++) {
    const char *source = arena_print(&arena, FIXTURES "%s", models[i]);
    bool bf16 = strcmp(models[i], "qwen2") == 0;
    const char *out = exported(imported(source, false), false, bf16 ? ELEMENT_BF16 : ELEMENT_F32);
    SafeFile before, after;
    assert_int_equal(safetensors_open(&arena, path_join(&arena, source, "model.safetensors"), &before), OK);
    assert_int_equal(safetensors_open(&arena, path_join(&arena, out, "model.safetensors"), &after), OK);
    assert_string_equal(safetensors_meta(&after, "format"), "pt");
    for (int t = 0; t < before.count; t++) {
      const SafeTensor *a = &before.tensors[t], *b = safetensors_find(&after, a->name);
      if (!b && strcmp(a->name, "lm_head.weight") == 0) continue; /* tied, and saved all the same */
      if (!b) fail_msg("%s has no %s", out, a->name);
      assert_int_equal(a->type, b->type);
      assert_int_equal(a->bytes, b->bytes);
      assert_memory_equal(a->data, b->data, a->bytes);
    }
    safetensors_close(&before);
    safetensors_close(&after);
  }
}

static void f16_refuses_what_it_cannot_hold(void **state) {
  (void)state;
  const char *folder = copy_fixture("smollm2"), *weights = path_join(&arena, folder, "model.safetensors");
  Text text = read_file(weights);
  uint64_t header;
  float large = 70000;
  memcpy(&header, text.data, 8);
  memcpy(text.data + 8 + header, &large, sizeof large);
  write_file(weights, text.data, text.length);
  OwnModel model;
  assert_int_equal(export_open(&arena, imported(folder, false), &model), OK);
  REFUSED(export_hf(&arena, &model, new_folder(), ELEMENT_F16, -1), "70000 as F16", "70000", "--type bf16");
  assert_int_equal(export_hf(&arena, &model, new_folder(), ELEMENT_BF16, -1), OK);
  export_close(&model);
}

/* Rows of no whole blocks of 32 stand as F16 in a Q8_0 file. */
static void f16_rounds_once_and_stands_in_for_q8_0(void **state) {
  (void)state;
  const char *first = imported(FIXTURES "smollm2", false);
  SafeFile a, b, c;
  const char *half = imported(exported(first, true, ELEMENT_F16), true);
  const char *eight = imported(exported(first, true, ELEMENT_Q8_0), true);
  assert_int_equal(safetensors_open(&arena, path_join(&arena, first, "model.safetensors"), &a), OK);
  assert_int_equal(safetensors_open(&arena, path_join(&arena, half, "model.safetensors"), &b), OK);
  assert_int_equal(safetensors_open(&arena, path_join(&arena, eight, "model.safetensors"), &c), OK);
  int blocks = 0;
  for (int t = 0; t < a.count; t++) {
    const SafeTensor *x = &a.tensors[t], *y = safetensors_find(&b, x->name),
                     *z = safetensors_find(&c, x->name);
    bool block = x->rank == 2 && x->shape[1] % 32 == 0;
    for (size_t i = 0; i < x->bytes / sizeof(float); i++) {
      float before = ((const float *)x->data)[i], now = ((const float *)z->data)[i];
      float rounded = x->rank == 2 ? half_to_float(float_to_half(before)) : before;
      if (((const float *)y->data)[i] != rounded) fail_msg("%s[%zu] was not rounded once", x->name, i);
      if (block ? fabsf(now - before) > 2.0f / 254 : now != rounded)
        fail_msg("%s[%zu] is %g in Q8_0, was %g", x->name, i, (double)now, (double)before);
      blocks += block && now != rounded;
    }
  }
  assert_true(blocks > 100); /* they were quantised */
  safetensors_close(&a);
  safetensors_close(&b);
  safetensors_close(&c);
}

static void scaled_rope_does_not_go_to_gguf(void **state) {
  (void)state;
  OwnModel model;
  assert_int_equal(export_open(&arena, imported(FIXTURES "llama3", false), &model), OK);
  REFUSED(export_gguf(&arena, &model, path_join(&arena, new_folder(), "x.gguf"), ELEMENT_F32, -1, NULL),
          "scaled rope", "rope scaling", "--format hf");
  export_close(&model);
}

static void same_array(const GgufFile *a, const GgufFile *b, const char *key) {
  const GgufValue *x = gguf_find(a, key), *y = gguf_find(b, key);
  assert_non_null(x);
  assert_non_null(y);
  assert_true(x->element == y->element && x->count == y->count && x->count > 0);
  size_t bytes = 4 * x->count;
  const unsigned char *end = x->at;
  if (x->element == GGUF_STRING) {
    for (uint64_t i = 0; i < x->count; i++) gguf_next_string(&end);
    bytes = (size_t)(end - x->at);
  }
  assert_memory_equal(x->at, y->at, bytes);
}

/* To tokenizer.json and back: tokens, kinds (padding rows too) and merges are the same; the end token is
 * named. */
static void a_tokenizer_goes_through_json_unchanged(void **state) {
  (void)state;
  GgufFile before, after;
  cJSON *tokenizer = NULL;
  const char *why = NULL, *path = path_join(&arena, new_folder(), "t.gguf");
  assert_int_equal(gguf_open(&arena, "tests/fuzz/seeds/gguf/tiny.gguf", &before), OK);
  assert_int_equal(import_gguf_tokenizer(&arena, &before, &tokenizer, &why), OK);
  if (!tokenizer) fail_msg("%s", why);
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(tokenizer, "added_tokens")), 2);
  Json json = {.path = "tokenizer.json", .text = "", .root = tokenizer};
  GgufWriter *writer = gguf_begin(&arena);
  if (export_gguf_tokenizer(&arena, &json, 9, writer) != OK) fail_msg("%s", error_message());
  assert_int_equal(gguf_finish(writer, path, NULL, NULL), OK);
  assert_int_equal(gguf_open(&arena, path, &after), OK);
  static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
                                     "tokenizer.ggml.merges"};
  for (int i = 0; i < 3; i++) same_array(&before, &after, keys[i]);
  assert_memory_equal(gguf_find(&after, "tokenizer.ggml.pre")->string.text, "qwen2", 5);
  cJSON *config = import_gguf_tokenizer_config(&arena, &before);
  assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(config, "eos_token")), "<eos>");
  cJSON_Delete(config);
  REFUSED(export_gguf_tokenizer(&arena, &json, 7, writer), "a vocabulary that is too small",
          "vocabulary of 7");
  cJSON_Delete(cJSON_DetachItemFromObject(tokenizer, "pre_tokenizer"));
  REFUSED(export_gguf_tokenizer(&arena, &json, 9, writer), "a cut without a name", "--format hf");
  cJSON_Delete(tokenizer);
  gguf_close(&before);
  gguf_close(&after);
}

/* ---- what a folder says ---- */

static void settings_that_the_decoder_does_not_do_are_refused_by_name(void **state) {
  (void)state;
  static const struct {
    const char *model, *from, *to, *said;
  } cases[] = {
      {"gpt2", "\"gelu_new\"", "\"relu\"", "\"activation_function\" is \"relu\""},
      {"gpt2", "\"model_type\": \"gpt2\"", "\"model_type\": \"bloom\"", "model_type \"bloom\""},
      {"gpt2", "\"n_layer\": 2", "\"n_layer\": 2.5", "\"n_layer\" is not a whole number"},
      {"gpt2", "\"n_layer\": 2", "\"n_layer\": 9000000", "9000000 layers"},
      {"gpt2", "\"n_head\": 2", "\"n_head\": -2", "\"n_head\" is not a whole number"},
      {"gpt2", "\"n_embd\": 16", "\"n_embd\": 17", "multiples of 8"},
      {"gpt2", "\"scale_attn_weights\": true", "\"scale_attn_weights\": false", "scale_attn_weights"},
      {"smollm2", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "\"hidden_act\" is \"gelu\""},
      {"smollm2", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "rope scaling \"yarn\""},
      {"smollm2", "\"rope_type\": \"default\"", "\"rope_type\": \"llama3\"",
       "\"factor\" is not a positive number"},
      {"llama3", "\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0", "low_freq_factor is not below"},
      {"smollm2", "\"rope_theta\": 100000.0", "\"rope_theta\": 0", "\"rope_theta\" is not a positive number"},
      {"smollm2", "\"mlp_bias\": false", "\"mlp_bias\": true", "\"attention_bias\" and \"mlp_bias\" differ"},
      {"smollm2", "\"vocab_size\": 40", "\"vocab_size\": 41", "40 x 16"},
      {"smollm2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "not a multiple of kv_heads"},
      {"smollm2", "\"head_dim\": 8", "\"head_dim\": 12", "head_dim 12"},
      {"smollm2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
       "no tensor \"lm_head.weight\""},
      {"smollm2", "\"use_cache\": true", "\"quantization_config\": {\"bits\": 4}", "quantised"},
      {"mistral", "\"sliding_window\": null", "\"sliding_window\": 32", "--context 32"},
      {"qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true", "use_sliding_window"},
      {"qwen3", "\"attention_bias\": false", "\"attention_bias\": true", "attention_bias"},
      {"qwen3", "\"model_type\": \"qwen3\"", "\"model_type\": \"qwen2\"",
       "no tensor \"model.layers.0.self_attn.q_proj.bias\""},
      {"llama-bias", "\"attention_bias\": true,", "\"attention_bias\": false,", "differ"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *folder = copy_fixture(cases[i].model);
    edit(path_join(&arena, folder, "config.json"), cases[i].from, cases[i].to);
    REFUSED(import_into(folder, false, 0, new_folder()), cases[i].to, cases[i].said, folder);
  }
}

/* rope_theta and rope_scaling beside the other keys, torch_dtype: as written before transformers 5. */
static void the_older_form_of_config_json_is_read_too(void **state) {
  (void)state;
  const char *folder = copy_fixture("smollm2"), *config = path_join(&arena, folder, "config.json");
  edit(config, "\"rope_parameters\": {", "\"rope_theta\": 100000.0, \"rope_scaling\": null, \"unused\": {");
  edit(config, "\"head_dim\": 8,", "\"head_dim\": null, \"torch_dtype\": \"float32\",");
  edit(config, "\"hidden_size\": 16", "\"hidden_size\": 32"); /* what head_dim comes from */
  ForeignModel model;
  if (import_open_hf(&arena, folder, 0, &model) != OK) fail_msg("%s", error_message());
  assert_int_equal(model.config.head_dim, 8);
  assert_true(model.config.rope_theta == 100000);
  import_close(&model);
  edit(config, "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}");
  REFUSED(import_open_hf(&arena, folder, 0, &model), "linear scaling", "rope scaling \"linear\"", config);
}

static void a_shorter_context_makes_a_window_harmless(void **state) {
  (void)state;
  const char *folder = copy_fixture("mistral");
  edit(path_join(&arena, folder, "config.json"), "\"sliding_window\": null", "\"sliding_window\": 32");
  ForeignModel model;
  assert_int_equal(import_open_hf(&arena, folder, 32, &model), OK);
  assert_int_equal(model.config.max_positions, 32);
  import_close(&model);
  REFUSED(import_open_hf(&arena, folder, 65, &model), "more than there is", "64 tokens, not 65");
  REFUSED(import_open_hf(&arena, FIXTURES "gpt2", 16, &model), "learned positions", "learned", "--context");
}

/* ---- the files of a folder ---- */

static void names_without_the_prefix_are_found(void **state) {
  (void)state;
  const char *folder = copy_fixture("gpt2"), *whole = imported(folder, false);
  const char *path = path_join(&arena, folder, "model.safetensors");
  Text text = read_file(path);
  for (char *at; (at = memmem(text.data, text.length, "\"transformer.", 13));) {
    memmove(at + 1, at + 13, text.length - (size_t)(at + 13 - text.data));
    text.length -= 12;
    uint64_t header;
    memcpy(&header, text.data, 8);
    header -= 12;
    memcpy(text.data, &header, 8);
  }
  write_file(path, text.data, text.length);
  same_weights(whole, imported(folder, false));
}

static void folders_that_are_not_whole_are_refused(void **state) {
  (void)state;
  const char *folder = copy_fixture("gpt2"), *weights = path_join(&arena, folder, "model.safetensors");
  Text text = read_file(weights);
  write_file(weights, text.data, text.length - 1);
  REFUSED(import_into(folder, false, 0, new_folder()), "a cut file", weights, "offset", "cut off");
  write_file(weights, text.data, text.length);
  edit(weights, "transformer.ln_f.weight", "transformer.ln_g.weight");
  REFUSED(import_into(folder, false, 0, new_folder()), "another name",
          "no tensor \"transformer.ln_f.weight\"");
  write_file(weights, text.data, text.length);
  edit(weights, "\"transformer.wpe.weight\":{\"dtype\":\"F32\",\"shape\":[32,16]",
       "\"transformer.wpe.weight\":{\"dtype\":\"F32\",\"shape\":[16,32]");
  REFUSED(import_into(folder, false, 0, new_folder()), "another shape", "16 x 32", "32 x 16", "offset");
  write_file(weights, text.data, text.length);
  edit(weights, "\"transformer.wpe.weight\":{\"dtype\":\"F32\"",
       "\"transformer.wpe.weight\":{\"dtype\":\"I32\"");
  REFUSED(import_into(folder, false, 0, new_folder()), "integers", "has type I32; convert", "offset");
  write_file(weights, text.data, text.length);
  edit(path_join(&arena, folder, "config.json"), "\"n_layer\": 2", "\"n_layer\": 1");
  REFUSED(import_into(folder, false, 0, new_folder()), "a layer too many", "has no place",
          "transformer.h.1.");
  unlink(weights);
  REFUSED(import_into(folder, false, 0, new_folder()), "no weights", "neither model.safetensors");
  write_file(path_join(&arena, folder, "pytorch_model.bin"), "x", 1);
  REFUSED(import_into(folder, false, 0, new_folder()), "a pickle", "pytorch_model.bin", "save_pretrained");
}

static void an_index_of_files_is_not_trusted(void **state) {
  (void)state;
  const char *folder = copy_fixture("mistral"),
             *index = path_join(&arena, folder, "model.safetensors.index.json");
  Text text = read_file(index);
  edit(index, "\"model-00001-of-00003.safetensors\"", "\"../model-00001-of-00003.safetensors\"");
  REFUSED(import_into(folder, false, 0, new_folder()), "a file elsewhere", "not a plain name", index);
  write_file(index, text.data, text.length);
  edit(index, "\"model-00001-of-00003.safetensors\"", "17");
  REFUSED(import_into(folder, false, 0, new_folder()), "a number as file", "not a plain name");
  write_file(index, text.data, text.length);
  const char *second = path_join(&arena, folder, "model-00002-of-00003.safetensors");
  Text shard = read_file(path_join(&arena, folder, "model-00001-of-00003.safetensors")),
       kept = read_file(second);
  write_file(second, shard.data, shard.length);
  REFUSED(import_into(folder, false, 0, new_folder()), "a tensor in two files", "stands in", "offset");
  write_file(second, kept.data, kept.length);
  unlink(path_join(&arena, folder, "model-00003-of-00003.safetensors"));
  REFUSED(import_into(folder, false, 0, new_folder()), "a missing file", "model-00003-of-00003.safetensors");
  write_file(index, "{\"weight_map\": {}}", 18);
  REFUSED(import_into(folder, false, 0, new_folder()), "no files", "empty");
}

static int make_root(void **state) {
  (void)state;
  return mkdtemp(root) ? 0 : 1;
}

static int remove_root(void **state) {
  (void)state;
  int status = system(arena_print(&arena, "rm -r %s", root));
  arena_free(&arena);
  return status;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(export_and_import_give_the_same_bits),
      cmocka_unit_test(tensors_of_several_pieces_go_out_and_in),
      cmocka_unit_test(an_export_has_the_tensors_that_came_in),
      cmocka_unit_test(f16_refuses_what_it_cannot_hold),
      cmocka_unit_test(f16_rounds_once_and_stands_in_for_q8_0),
      cmocka_unit_test(a_tokenizer_goes_through_json_unchanged),
      cmocka_unit_test(scaled_rope_does_not_go_to_gguf),
      cmocka_unit_test(settings_that_the_decoder_does_not_do_are_refused_by_name),
      cmocka_unit_test(the_older_form_of_config_json_is_read_too),
      cmocka_unit_test(a_shorter_context_makes_a_window_harmless),
      cmocka_unit_test(names_without_the_prefix_are_found),
      cmocka_unit_test(folders_that_are_not_whole_are_refused),
      cmocka_unit_test(an_index_of_files_is_not_trusted),
  };
  return cmocka_run_group_tests(tests, make_root, remove_root);
}
