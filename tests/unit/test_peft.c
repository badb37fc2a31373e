/* Adapters of the tiny models as the PEFT library saved them: our logits, loss and gradients are its own, and
 * what we export is its file. The fixtures and the versions they were made with: tests/fixtures/make_peft.py,
 * peft/versions.json. */
#include "parity.h"
#include "safetensors.h"

#define FIXTURES "tests/fixtures/"

typedef struct Adapter {
  const char *name, *base;
  LoraConfig lora;
  int prefix_tokens;
} Adapter;

/* The modules that our targets are. */
static const struct {
  const char *target, *gpt2, *llama;
} modules[] = {{"qkv", "attn.c_attn", NULL},
               {"q", NULL, "self_attn.q_proj"},
               {"k", NULL, "self_attn.k_proj"},
               {"v", NULL, "self_attn.v_proj"},
               {"proj", "attn.c_proj", "self_attn.o_proj"},
               {"gate", NULL, "mlp.gate_proj"},
               {"up", "mlp.c_fc", "mlp.up_proj"},
               {"down", "mlp.c_proj", "mlp.down_proj"}};

/* The name that PEFT gives layers.<layer>.lora.<target>.<a or b>. */
static const char *lora_name(Parity *p, const char *ours) {
  int layer;
  char target[8], matrix;
  assert_int_equal(sscanf(ours, "layers.%d.lora.%7[a-z].%c", &layer, target, &matrix), 3);
  bool gpt2 = strcmp(family_name(p->family), "gpt2") == 0;
  for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
    if (strcmp(modules[i].target, target) == 0)
      return arena_print(&p->arena, "base_model.model.%s.%d.%s.lora_%c.weight",
                         gpt2 ? "transformer.h" : "model.layers", layer,
                         gpt2 ? modules[i].gpt2 : modules[i].llama, matrix == 'a' ? 'A' : 'B');
  fail_msg("no module %s", target);
  return NULL;
}

/* What a file of PEFT's has for a parameter of ours, in our layout; kind: "" or "grad.". */
static float *peft_values(Parity *p, const SafeFile *file, const char *kind, const Parameter *parameter) {
  float *out = NEW(&p->arena, float, parameter->count);
  int layer;
  bool prefix = strstr(parameter->name, ".prefix") != NULL;
  const char *name = prefix ? "prompt_embeddings" : lora_name(p, parameter->name);
  const SafeTensor *tensor = safetensors_find(file, arena_print(&p->arena, "%s%s", kind, name));
  if (!tensor) fail_msg("no tensor %s%s", kind, name);
  assert_int_equal(tensor->shape[0], parameter->shape[0]);
  if (!prefix) {
    assert_int_equal(tensor->shape[1], parameter->shape[1]);
    memcpy(out, tensor->data, tensor->bytes);
    return out;
  }
  size_t width = (size_t)parameter->shape[1], layers = (size_t)p->model.decoder.config.layers;
  assert_int_equal(sscanf(parameter->name, "layers.%d.", &layer), 1);
  assert_int_equal(tensor->shape[1], (int64_t)(layers * width));
  for (size_t t = 0; t < (size_t)parameter->shape[0]; t++)
    memcpy(out + t * width, (const char *)tensor->data + (t * layers + (size_t)layer) * width * sizeof(float),
           width * sizeof(float));
  return out;
}

static const char *file_of(Parity *p, const Adapter *adapter, const char *file) {
  return arena_print(&p->arena, FIXTURES "peft/%s/%s", adapter->name, file);
}

static void load_adapter(Parity *p, const Adapter *adapter) {
  SafeFile file;
  Status status = safetensors_open(&p->arena, file_of(p, adapter, "adapter_model.safetensors"), &file);
  if (status != OK) fail_msg("%s", error_message());
  const Parameters *parameters = &p->model.parameters;
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (parameter->frozen) continue;
    memcpy(parameters_weight(parameters, i), peft_values(p, &file, "", parameter),
           parameter->count * sizeof(float));
  }
  safetensors_close(&file);
}

/* Every value within 1e-4 of its tensor's norm. */
static void compare_gradients(Parity *p, const Adapter *adapter) {
  const Parameters *parameters = &p->model.parameters;
  double largest = 0;
  int count = 0;
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->list[i];
    if (parameter->frozen) continue;
    const float *want = peft_values(p, &p->expected, "grad.", parameter),
                *got = parameters_grad(parameters, i);
    double square = 0, norm;
    for (size_t j = 0; j < parameter->count; j++) square += (double)want[j] * (double)want[j];
    norm = sqrt(square);
    assert_true(norm > 1e-3);
    for (size_t j = 0; j < parameter->count; j++) {
      double error = fabs((double)got[j] - (double)want[j]) / norm;
      largest = fmax(largest, error);
      if (!(error <= 1e-4)) /* NaN fails too */
        fail_msg("%s: gradient of %s at %zu is %.7g, not %.7g", adapter->name, parameter->name, j,
                 (double)got[j], (double)want[j]);
    }
    count++;
  }
  print_message("%s: gradients of %d tensors differ by %.1e of their norm at most\n", adapter->name, count,
                largest);
  assert_true(count >= 2);
}

/* The tensors that export_peft writes are those of PEFT's own file, and so is what it says of their shapes.
 */
static void compare_export(Parity *p, const Adapter *adapter, const char *folder) {
  const char *out = path_join(&p->arena, folder, "peft");
  SafeFile got, want;
  assert_int_equal(model_save(&p->model, folder), OK);
  Status status = export_peft(&p->arena, folder, out);
  if (status != OK) fail_msg("%s", error_message());
  assert_int_equal(safetensors_open(&p->arena, path_join(&p->arena, out, "adapter_model.safetensors"), &got),
                   OK);
  assert_int_equal(safetensors_open(&p->arena, file_of(p, adapter, "adapter_model.safetensors"), &want), OK);
  assert_int_equal(got.count, want.count);
  for (int i = 0; i < want.count; i++) {
    const SafeTensor *tensor = safetensors_find(&got, want.tensors[i].name);
    if (!tensor) fail_msg("%s: the export has no %s", adapter->name, want.tensors[i].name);
    assert_int_equal(tensor->bytes, want.tensors[i].bytes);
    assert_memory_equal(tensor->data, want.tensors[i].data, tensor->bytes);
  }
  safetensors_close(&got);
  safetensors_close(&want);
  Json ours, theirs;
  assert_int_equal(json_read(&p->arena, path_join(&p->arena, out, "adapter_config.json"), &ours), OK);
  assert_int_equal(json_read(&p->arena, file_of(p, adapter, "adapter_config.json"), &theirs), OK);
  const cJSON *item;
  cJSON_ArrayForEach(item, ours.root) {
    bool place = strcmp(item->string, "base_model_name_or_path") == 0;
    bool names = strcmp(item->string, "target_modules") == 0; /* ours are longer */
    const cJSON *other = cJSON_GetObjectItemCaseSensitive(theirs.root, item->string);
    if (!other || (!place && !names && !cJSON_Compare(item, other, true)))
      fail_msg("%s: adapter_config.json differs from PEFT's in %s", adapter->name, item->string);
    if (names) assert_int_equal(cJSON_GetArraySize(item), cJSON_GetArraySize(other));
  }
  json_free(&ours);
  json_free(&theirs);
}

static void equals_peft(const Adapter *adapter) {
  Parity p;
  char template[] = "/tmp/popalm-peft-XXXXXX", folder[128], command[256];
  assert_non_null(mkdtemp(template));
  snprintf(folder, sizeof folder, FIXTURES "peft/%s", adapter->name);
  open_expected(&p, folder);
  const char *base = path_join(&p.arena, template, "base"), *out = path_join(&p.arena, template, "adapter");
  import_into(&p, arena_print(&p.arena, FIXTURES "models/%s", adapter->base), false, base);
  DecoderConfig config;
  assert_int_equal(model_describe(&p.arena, base, &config), OK);
  config.lora = adapter->lora;
  config.prefix_tokens = adapter->prefix_tokens;
  Status status = model_create(&p.arena, &p.model, p.backend, &config, base, (ModelParts){0}, true, 1);
  if (status != OK) fail_msg("%s", error_message());
  load_adapter(&p, adapter);
  run_parity(&p);
  compare_logits(&p, adapter->name);
  compare_loss(&p, adapter->name);
  compare_gradients(&p, adapter);
  assert_int_equal(make_folders(out), OK);
  compare_export(&p, adapter, out);
  close_parity(&p);
  snprintf(command, sizeof command, "rm -r '%s'", template);
  assert_int_equal(system(command), 0);
}

static void lora_of_a_whole_gpt2_equals_peft(void **state) {
  (void)state;
  equals_peft(&(Adapter){
      .name = "gpt2-lora",
      .base = "gpt2",
      .lora = {.rank = 3,
               .alpha = 5,
               .target = {[LORA_QKV] = true, [LORA_PROJ] = true, [LORA_UP] = true, [LORA_DOWN] = true}}});
}

static void lora_of_all_modules_with_grouped_heads_equals_peft(void **state) {
  (void)state;
  Adapter adapter = {.name = "qwen3-lora", .base = "qwen3", .lora = {.rank = 2, .alpha = 8}};
  for (int t = LORA_Q; t < LORA_TARGETS; t++) adapter.lora.target[t] = true;
  equals_peft(&adapter);
}

static void lora_of_queries_and_values_equals_peft(void **state) {
  (void)state;
  equals_peft(&(Adapter){.name = "smollm2-lora",
                         .base = "smollm2",
                         .lora = {.rank = 4, .alpha = 4, .target = {[LORA_Q] = true, [LORA_V] = true}}});
}

/* Positions begin behind the prefix, in the learned table as in rope. */
static void a_prefix_of_gpt2_equals_peft(void **state) {
  (void)state;
  equals_peft(&(Adapter){.name = "gpt2-prefix", .base = "gpt2", .prefix_tokens = 7});
}

static void a_prefix_with_grouped_heads_equals_peft(void **state) {
  (void)state;
  equals_peft(&(Adapter){.name = "smollm2-prefix", .base = "smollm2", .prefix_tokens = 3});
}

/* The heads are normed, the prefix is not. */
static void a_prefix_beside_normed_heads_equals_peft(void **state) {
  (void)state;
  equals_peft(&(Adapter){.name = "qwen3-prefix", .base = "qwen3", .prefix_tokens = 5});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lora_of_a_whole_gpt2_equals_peft),
      cmocka_unit_test(lora_of_all_modules_with_grouped_heads_equals_peft),
      cmocka_unit_test(lora_of_queries_and_values_equals_peft),
      cmocka_unit_test(a_prefix_of_gpt2_equals_peft),
      cmocka_unit_test(a_prefix_with_grouped_heads_equals_peft),
      cmocka_unit_test(a_prefix_beside_normed_heads_equals_peft),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
