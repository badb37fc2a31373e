/* Any bytes as a config.json. */
#include "fuzz.h"
#include "models/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena arena = {0};
  Json json;
  if (json_parse(&arena, "config.json", (const char *)data, size, &json) == OK) {
    const Family *family;
    DecoderConfig config;
    if (cJSON_IsObject(json.root) && family_read_hf(&arena, &json, 0, &family, &config) == OK && config.layers < 100) {
      Slice *slices;
      int count;
      family_slices(&arena, family, &config, OUTSIDE_HF, &slices, &count);
      cJSON_Delete(family_hf_config(family, &config));
    }
    json_free(&json);
  }
  arena_free(&arena);
  return 0;
}
