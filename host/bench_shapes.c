/* The shapes on which kernels are measured, and what the CPU gets of them. */
#include <string.h>

#include "bench.h"

const BenchSet bench_sets[] = {
    {"rlhf", SET_RLHF,
     "posts of 128 and replies of 32 tokens, hundreds of ragged sequences; PPO batches of 1024 x 32",
     "1/16 of the sequences and of the generated rows, 1/32 of the parameters"},
    {"long", SET_LONG, "16384 tokens in sequences of 1024, 4096 or 16384, head dimensions 64 and 128",
     "1/8 of each length and of the generated rows"},
    {"large", SET_LARGE, "8192 tokens of models of 124M, 1B and 7B parameters",
     "1/64 of the tokens and of the generated rows, 1/8 of the vocabulary, 1/64 of the parameters"},
    {"tiny", SET_TINY, "every kernel on a shape that takes no time: to see that all of them run", ""},
};
const int bench_set_count = sizeof bench_sets / sizeof *bench_sets;

const BenchSet *bench_set(unsigned bit) {
  for (int i = 0; i < bench_set_count; i++)
    if (bench_sets[i].bit == bit) return &bench_sets[i];
  return NULL;
}

#define LONG(title, length, count, head_count, dim)                                                         \
  {                                                                                                         \
    .set = SET_LONG, .name = title, .sequences = count, .shortest = length, .longest = length,              \
    .replies = 64, .reply = 32, .samples = 64 / (count), .norm = NORM_RMS, .activation = ACTIVATION_SWIGLU, \
    .hidden = 2048, .heads = head_count, .kv_heads = head_count, .head_dim = dim, .mlp = 8192,              \
    .vocab = 32000, .max_positions = 16384, .parameters = 1 << 20                                           \
  }

const BenchShape bench_shapes[] = {
    {.set = SET_RLHF,
     .name = "gpt2-124m 128+32",
     .sequences = 256,
     .shortest = 112,
     .longest = 160,
     .replies = 1024,
     .reply = 32,
     .samples = 4,
     .norm = NORM_LAYER,
     .activation = ACTIVATION_GELU,
     .hidden = 768,
     .heads = 12,
     .kv_heads = 12,
     .head_dim = 64,
     .mlp = 3072,
     .vocab = 21128,
     .max_positions = 1024,
     .parameters = 102000000},
    LONG("T=1024 d=64", 1024, 16, 32, 64),
    LONG("T=4096 d=64", 4096, 4, 32, 64),
    LONG("T=16384 d=64", 16384, 1, 32, 64),
    LONG("T=1024 d=128", 1024, 16, 16, 128),
    LONG("T=4096 d=128", 4096, 4, 16, 128),
    LONG("T=16384 d=128", 16384, 1, 16, 128),
    {.set = SET_LARGE,
     .name = "gpt2 124M",
     .sequences = 8,
     .shortest = 1024,
     .longest = 1024,
     .replies = 256,
     .reply = 256,
     .samples = 4,
     .norm = NORM_LAYER,
     .activation = ACTIVATION_GELU,
     .hidden = 768,
     .heads = 12,
     .kv_heads = 12,
     .head_dim = 64,
     .mlp = 3072,
     .vocab = 50257,
     .max_positions = 1024,
     .parameters = 124000000},
    {.set = SET_LARGE,
     .name = "llama 1B",
     .sequences = 8,
     .shortest = 1024,
     .longest = 1024,
     .replies = 256,
     .reply = 256,
     .samples = 4,
     .norm = NORM_RMS,
     .activation = ACTIVATION_SWIGLU,
     .hidden = 2048,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 64,
     .mlp = 8192,
     .vocab = 128256,
     .max_positions = 4096,
     .parameters = 1236000000},
    {.set = SET_LARGE,
     .name = "llama 7B",
     .sequences = 8,
     .shortest = 1024,
     .longest = 1024,
     .replies = 256,
     .reply = 256,
     .samples = 4,
     .norm = NORM_RMS,
     .activation = ACTIVATION_SWIGLU,
     .hidden = 4096,
     .heads = 32,
     .kv_heads = 32,
     .head_dim = 128,
     .mlp = 11008,
     .vocab = 32000,
     .max_positions = 4096,
     .parameters = 2000000000}, /* of 6.7e9: what fits one device with its optimizer states */
    {.set = SET_TINY,
     .name = "tiny",
     .sequences = 3,
     .shortest = 1,
     .longest = 20,
     .replies = 6,
     .reply = 5,
     .samples = 2,
     .norm = NORM_RMS,
     .activation = ACTIVATION_SWIGLU,
     .hidden = 64,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 32,
     .mlp = 96,
     .vocab = 101,
     .max_positions = 64,
     .parameters = 1000},
};
const int bench_shape_count = sizeof bench_shapes / sizeof *bench_shapes;

/* Divisors. */
typedef struct CpuScale {
  unsigned set;
  int sequences, length, replies, reply, vocab, parameters;
} CpuScale;

static const CpuScale cpu_scales[] = {
    {SET_RLHF, 16, 1, 16, 1, 1, 32},
    {SET_LONG, 1, 8, 8, 1, 1, 1},
    {SET_LARGE, 8, 8, 64, 1, 8, 64},
    {SET_TINY, 1, 1, 1, 1, 1, 1},
};

BenchShape bench_shape_for(const BenchShape *shape, const Backend *backend) {
  BenchShape out = *shape;
  if (strcmp(backend->name, "cpu") != 0) return out;
  const CpuScale *scale = cpu_scales;
  while (scale->set != shape->set) scale++;
  out.sequences /= scale->sequences;
  out.shortest /= scale->length;
  out.longest /= scale->length;
  out.replies /= scale->replies;
  out.reply /= scale->reply;
  out.vocab /= scale->vocab;
  out.parameters /= scale->parameters;
  return out;
}
