/* The decoder as a whole: its gradient, its decode path, and independence of batch composition, for all
 * forms. */
#include <math.h>
#include <string.h>

#include "model_pass.h"
#include "models/decode.h"
#include "tiny_forms.h"

typedef struct Fixture {
  Arena arena;
  Backend *backend;
  Model model;
  Pass pass;
} Fixture;

enum { VOCAB = 37 };

static void open_for(Fixture *f, Form form, ActivationsUse use) {
  *f = (Fixture){0};
  DecoderConfig config = tiny_form(form, VOCAB);
  assert_int_equal(cpu_backend_open(0, &f->backend), OK);
  assert_int_equal(model_create(&f->arena, &f->model, f->backend, &config, NULL, (ModelParts){0}, true, 7),
                   OK);
  pass_open(&f->pass, &f->arena, &f->model, &config, use);
}

static void open_fixture(Fixture *f, Form form) { open_for(f, form, ACTIVATIONS_KEPT); }

static void close_fixture(Fixture *f) {
  pass_close(&f->pass);
  model_free(&f->model);
  f->backend->close(f->backend);
  arena_free(&f->arena);
}

static void fill(Batch *batch, uint64_t seed, const int *lengths, int count) {
  batch_clear(batch);
  for (int s = 0; s < count; s++) {
    int32_t tokens[64];
    for (int t = 0; t < lengths[s]; t++)
      tokens[t] = (int32_t)random_below((RandomKey){seed, RANDOM_TEST, 0}, (uint32_t)s, (uint32_t)t, VOCAB);
    batch_add(batch, tokens, lengths[s], lengths[s] / 2 + 1);
  }
  batch_upload(batch);
}

/* Along the gradient's own direction, restricted to one tensor, the loss must rise by its norm. fp32 forward
 * passes limit the precision, so the step is large and the tolerance wide; a wrong term is off by far more.
 */
static void gradient_matches_finite_differences(Form form) {
  Fixture f;
  open_fixture(&f, form);
  fill(&f.pass.batch, 3, (int[]){11, 2, 23, 7, 1, 13}, 6);
  pass_forward(&f.pass, &f.model);
  pass_backward(&f.pass, &f.model);
  Parameters *p = &f.model.parameters;
  float *grads = NEW(&f.arena, float, p->total), *weights = NEW(&f.arena, float, p->total);
  memcpy(grads, p->grads, p->total * sizeof(float));
  memcpy(weights, p->master, p->total * sizeof(float));
  for (int i = 0; i < p->count; i++) {
    const Parameter *tensor = &p->list[i];
    double norm = 0, scale = 0;
    for (size_t j = tensor->offset; j < tensor->offset + tensor->count; j++) {
      norm += (double)grads[j] * (double)grads[j];
      scale += (double)weights[j] * (double)weights[j];
    }
    norm = sqrt(norm);
    if (norm < 1e-4) continue; /* e.g. the key bias, which softmax ignores */
    double step = 2e-3 * fmax(0.1, sqrt(scale)), value[2];
    for (int side = 0; side < 2; side++) {
      for (size_t j = tensor->offset; j < tensor->offset + tensor->count; j++)
        p->master[j] = weights[j] + (float)((side ? -step : step) * (double)grads[j] / norm);
      value[side] = pass_forward(&f.pass, &f.model);
    }
    memcpy(p->master, weights, p->total * sizeof(float));
    double numeric = (value[0] - value[1]) / (2 * step);
    if (!(fabs(numeric - norm) <= 0.02 * norm + 1e-2)) /* NaN fails too */
      fail_msg("%s: gradient norm %g, by differences %g", tensor->name, norm, numeric);
  }
  close_fixture(&f);
}

static void gpt2_gradient_matches_finite_differences(void **state) {
  (void)state;
  gradient_matches_finite_differences(GPT2);
}

static void llama_gradient_matches_finite_differences(void **state) {
  (void)state;
  gradient_matches_finite_differences(LLAMA);
}

static void qwen3_gradient_matches_finite_differences(void **state) {
  (void)state;
  gradient_matches_finite_differences(QWEN3);
}

static void recomputed_activations_give_the_same_gradients(void **state) {
  (void)state;
  for (Form form = 0; form < FORMS; form++) {
    float *grads[2];
    size_t bytes[2], count = 0;
    Fixture f[2];
    for (int i = 0; i < 2; i++) {
      open_for(&f[i], form, i ? ACTIVATIONS_RECOMPUTED : ACTIVATIONS_KEPT);
      fill(&f[i].pass.batch, 3, (int[]){11, 2, 23, 7, 1, 13}, 6);
      pass_forward(&f[i].pass, &f[i].model);
      pass_backward(&f[i].pass, &f[i].model);
      grads[i] = f[i].model.parameters.grads;
      count = f[i].model.parameters.total;
      bytes[i] = f[i].pass.activations.bytes;
    }
    assert_memory_equal(grads[0], grads[1], count * sizeof(float));
    assert_true(bytes[1] < bytes[0]);
    for (int i = 0; i < 2; i++) close_fixture(&f[i]);
  }
}

static void a_sequence_does_not_depend_on_its_neighbours(void **state) {
  (void)state;
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    open_fixture(&f, form);
    fill(&f.pass.batch, 5, (int[]){17}, 1);
    pass_forward(&f.pass, &f.model);
    float alone[64];
    int rows = f.pass.batch.rows;
    memcpy(alone, f.pass.logprob, sizeof(float) * (size_t)rows);
    fill(&f.pass.batch, 5, (int[]){17, 31, 5, 23}, 4);
    pass_forward(&f.pass, &f.model);
    for (int i = 0; i < rows; i++) assert_float_equal(alone[i], f.pass.logprob[i], 1e-5);
    close_fixture(&f);
  }
}

/* Three posts with 4, 1 and 2 replies each. branches: the replies to a post share it. Rows are those of the
 * replies. */
static void fill_replies(Batch *batch, bool branches) {
  static const int posts[] = {9, 4, 6}, replies[] = {4, 1, 2};
  batch_clear(batch);
  for (uint32_t p = 0; p < 3; p++)
    for (int r = 0; r < replies[p]; r++) {
      int32_t tokens[32];
      int count = posts[p] + 1 + 2 * r;
      for (int t = 0; t < count; t++) {
        uint32_t part = t < posts[p] ? p : 100 * p + 10 + (uint32_t)r;
        tokens[t] = (int32_t)random_below((RandomKey){8, RANDOM_TEST, 0}, part, (uint32_t)t, VOCAB);
      }
      batch_branch(batch, tokens, count, posts[p], branches && r ? posts[p] - 1 : 0);
    }
  batch_upload(batch);
}

static void replies_that_share_a_post_give_what_they_give_apart(void **state) {
  (void)state;
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    float *grads[2], logprob[2][PASS_TOKENS];
    int rows[2], tokens[2];
    size_t count = 0;
    open_fixture(&f, form);
    for (int i = 0; i < 2; i++) {
      fill_replies(&f.pass.batch, i);
      pass_forward(&f.pass, &f.model);
      pass_backward(&f.pass, &f.model);
      rows[i] = f.pass.batch.rows, tokens[i] = f.pass.batch.tokens;
      count = f.model.parameters.total;
      grads[i] = memcpy(NEW(&f.arena, float, count), f.model.parameters.grads, count * sizeof(float));
      memcpy(logprob[i], f.pass.logprob, sizeof logprob[i]);
    }
    assert_int_equal(rows[0], rows[1]);
    assert_int_equal(tokens[0] - tokens[1], 3 * 8 + 5);
    for (int r = 0; r < rows[0]; r++) assert_float_equal(logprob[0][r], logprob[1][r], 1e-5);
    double off = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
      off += pow((double)grads[0][i] - (double)grads[1][i], 2);
      norm += pow((double)grads[0][i], 2);
    }
    assert_true(off <= 1e-10 * norm);
    close_fixture(&f);
  }
}

/* Decoding token by token with a cache gives the logits of a full forward pass. */
static void decode_equals_forward(void **state) {
  (void)state;
  enum { POST = 9, REPLY = 6 };
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    open_fixture(&f, form);
    int32_t tokens[POST + REPLY];
    for (int t = 0; t < POST + REPLY; t++) tokens[t] = (7 * t + 3) % VOCAB;
    batch_clear(&f.pass.batch);
    batch_add(&f.pass.batch, tokens, POST + REPLY, POST + REPLY);
    batch_upload(&f.pass.batch);
    DecoderInput input = batch_input(&f.pass.batch);
    decoder_forward(&f.model.decoder, &f.pass.activations, &input);
    int H = f.model.decoder.config.hidden;
    float *expected = NEW(&f.arena, float, REPLY *H);
    int32_t index[REPLY];
    for (int t = 0; t < REPLY; t++) index[t] = POST + t;
    model_rows_forward(&f.model, &f.pass.activations, &f.pass.rows, index, REPLY);
    memcpy(expected, f.pass.rows.normed, sizeof(float) * (size_t)(REPLY * H));

    DecodeCache cache;
    assert_int_equal(decode_cache_allocate(&f.arena, &cache, &f.model, POST, 3, REPLY), OK);
    batch_clear(&f.pass.batch);
    batch_add(&f.pass.batch, tokens, POST, POST);
    batch_upload(&f.pass.batch);
    input = batch_input(&f.pass.batch);
    input.kv_cache = cache.post;
    decoder_forward(&f.model.decoder, &f.pass.activations, &input);
    int32_t zero = 0, slot = 2, token, position, length, row;
    for (int t = 0; t < REPLY; t++) {
      token = tokens[POST + t], position = POST + t, length = t + 1, row = slot * REPLY + t;
      DecodeRows rows = {.rows = 1,
                         .post_cu_seqlens = f.pass.batch.device.cu_seqlens,
                         .post = &zero,
                         .slot = &slot,
                         .token = &token,
                         .position = &position,
                         .reply_len = &length,
                         .cache_row = &row};
      decode_step(&f.model, &f.pass.activations, &cache, &rows);
      model_rows_forward(&f.model, &f.pass.activations, &f.pass.rows, &zero, 1);
      for (int h = 0; h < H; h++)
        assert_float_equal(((float *)f.pass.rows.normed)[h], expected[t * H + h], 2e-4);
    }
    decode_cache_free(&cache, f.backend);
    close_fixture(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gpt2_gradient_matches_finite_differences),
      cmocka_unit_test(llama_gradient_matches_finite_differences),
      cmocka_unit_test(qwen3_gradient_matches_finite_differences),
      cmocka_unit_test(recomputed_activations_give_the_same_gradients),
      cmocka_unit_test(a_sequence_does_not_depend_on_its_neighbours),
      cmocka_unit_test(replies_that_share_a_post_give_what_they_give_apart),
      cmocka_unit_test(decode_equals_forward),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
