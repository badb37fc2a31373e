#!/usr/bin/env python3
"""What 8 and 64 GPUs would give, computed: python3 tests/ranks/estimate.py [--markdown]

Bytes and operations follow from the shapes and from what the program does (models/shards.h): they are counts, and the
bytes are checked below against what `popalm run` prints under mpirun. The rates of hardware are ASSUMPTIONS, from data
sheets, and so is the share of them that is reached: nothing here was measured on a GPU.
"""
import sys

# ---- assumptions ----
PEAK = 989e12        # bf16 operations/s, dense: NVIDIA's data sheet of the H100 SXM
REACHED = 0.40       # share of PEAK that a training step reaches on one GPU
MEMORY = 3.35e12     # bytes/s of its memory, data sheet
MEMORY_REACHED = 0.80
NVLINK = 450e9       # bytes/s in one direction inside a machine of 8, data sheet
NETWORK = 50e9       # bytes/s in one direction: one 400 Gbit/s adapter a GPU, between machines
LINK_REACHED = 0.80  # of either, for large buckets
LATENCY = 20e-6      # s a collective and machine hop
IMBALANCE = 0.01     # the fullest rank's tokens above the mean; dealing leaves one sequence at most

# name, layers, hidden, mlp (gated: 3 matrices), heads, kv heads, head dim, vocabulary, tied, positions, recompute, tokens a GPU
SHAPES = [
    ("124M (GPT-2)", 12, 768, 3072, False, 12, 12, 64, 50257, True, 1024, False, 16384),
    ("1B (Llama 3.2)", 16, 2048, 8192, True, 32, 8, 64, 128256, True, 0, False, 16384),
    ("7B (Qwen2)", 28, 3584, 18944, True, 28, 4, 128, 152064, False, 0, True, 8192),
]
SEQUENCE = 160       # tokens of a post and its reply
BYTES = 2            # bf16 weights and gradients
STATES = 12          # fp32 weight and two moments


class Shape:
    def __init__(self, row, times=1):
        """times: as many tokens a GPU as the row says."""
        (self.name, self.layers, hidden, mlp, gated, heads, kv, d, vocab, tied, positions, self.recompute,
         self.tokens) = row
        self.tokens *= times
        self.layer = hidden * (heads + 2 * kv) * d + heads * d * hidden + (3 if gated else 2) * hidden * mlp
        self.table = vocab * hidden
        self.first = 0 if tied else self.table      # complete before the layers
        self.last = self.table + positions * hidden  # complete after them
        self.parameters = self.first + self.last + self.layers * self.layer
        # forward products: 2 operations a weight and token, and scores and values of the mean key of a causal row
        attention = self.layers * 2 * 2 * heads * d * SEQUENCE / 2
        self.layer_forward = self.tokens * (2 * self.layer + attention / self.layers)
        self.head = self.tokens * 2 * self.table     # every token in the loss: an upper bound

    def compute(self):
        """Seconds of the forward pass, of a layer's backward pass, of the vocabulary's backward pass."""
        rate = PEAK * REACHED
        backward = 3 if self.recompute else 2
        return (self.layers * self.layer_forward / rate, backward * self.layer_forward / rate, 3 * self.head / rate)


def collective(elements, gpus):
    """Seconds in which a ring moves every slice but one past each GPU."""
    if gpus == 1:
        return 0.0
    link = NVLINK if gpus <= 8 else NETWORK
    hops = 1 if gpus <= 8 else gpus // 8
    return elements * BYTES * (gpus - 1) / gpus / (link * LINK_REACHED) + LATENCY * hops


def forward_pass(shape, gpus, seconds):
    """Seconds until its end: updated weights arrive bucket by bucket, the tables first, and a layer waits for its own."""
    arrived = now = collective(shape.last, gpus)
    for _ in range(shape.layers):
        arrived += collective(shape.layer, gpus)
        now = max(now, arrived) + seconds / shape.layers
    return max(now, arrived + (collective(shape.first, gpus) if shape.first else 0))


def step(shape, gpus):
    """Seconds of the parts of a step; collectives run one after the other beside the passes."""
    forward, layer, head = shape.compute()
    late = forward_pass(shape, gpus, forward) - forward if gpus > 1 else 0.0
    now, sent_until = forward + head, 0.0
    if shape.first:
        sent_until = now + layer + collective(shape.first, gpus)
    for _ in range(shape.layers):
        now += layer
        sent_until = max(now, sent_until) + collective(shape.layer, gpus)
    sent_until = max(now, sent_until) + collective(shape.last, gpus)
    gather = (shape.layers * collective(shape.layer, gpus) + collective(shape.last, gpus) +
              (collective(shape.first, gpus) if shape.first else 0))
    optimizer = shape.parameters * (2 * STATES + 2 * BYTES + BYTES) / gpus / (MEMORY * MEMORY_REACHED)
    waits = now * IMBALANCE if gpus > 1 else 0.0
    return {"compute": now, "exposed": max(0.0, sent_until - now), "gather": gather, "optimizer": optimizer,
            "imbalance": waits, "late": late}


def total(parts):
    return sum(parts[k] for k in ("compute", "exposed", "late", "optimizer", "imbalance"))


def memory(shape, gpus):
    """Bytes of weights, gradients and optimizer of one model; a rank's slices have gradients and weights of their own."""
    extra = STATES + (2 * BYTES if gpus > 1 else 0)
    return shape.parameters * (2 * BYTES + extra / gpus)


def check():
    """The bytes a rank sends a step, for gpt2-6m in fp32 with the vocabulary of tests/ranks/scaling.sh."""
    hidden, mlp, layers, vocab, positions = 256, 1024, 4, 824, 256
    vectors = layers * (2 * 2 * hidden + 3 * hidden + hidden + mlp + hidden) + 2 * hidden
    parameters = layers * (4 * hidden * hidden + 2 * hidden * mlp) + (vocab + positions) * hidden + vectors
    return 2 * parameters * 4 * (2 - 1) / 2 / 1e6


def main():
    bar = "--markdown" in sys.argv
    columns = ["model", "GPUs", "tokens a step", "compute ms", "each way ms", "reduce exposed", "gather exposed",
               "optimizer ms", "efficiency", "same batch", "GB a GPU"]
    rows = []
    for row in SHAPES:
        shape = Shape(row)
        alone = total(step(shape, 1))
        for gpus in (1, 8, 64):
            p = step(shape, gpus)
            same = total(step(Shape(row, 8), 1)) / (gpus * total(step(Shape(row, 8 / gpus), gpus)))
            rows.append([shape.name, str(gpus), str(shape.tokens * gpus), f"{1e3 * p['compute']:.1f}",
                         f"{1e3 * p['gather']:.1f}", f"{1e3 * p['exposed']:.1f}", f"{1e3 * p['late']:.1f}",
                         f"{1e3 * p['optimizer']:.1f}", f"{100 * alone / total(p):.0f}%", f"{100 * same:.0f}%",
                         f"{memory(shape, gpus) / 1e9:.1f}"])
    widths = [max(len(r[i]) for r in rows + [columns]) for i in range(len(columns))]
    for number, row in enumerate([columns] + rows):
        if bar:
            print("| " + " | ".join(row) + " |")
            if number == 0:
                print("|" + "---|" * len(columns))
        else:
            print("  ".join(f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(row, widths))))
    print(f"\nassumed: {PEAK / 1e12:.0f} TFLOP/s x {REACHED:.0%}, memory {MEMORY / 1e12:.2f} TB/s x {MEMORY_REACHED:.0%}, "
          f"links {NVLINK / 1e9:.0f} GB/s within 8 and {NETWORK / 1e9:.0f} GB/s a GPU beyond, x {LINK_REACHED:.0%}, "
          f"{LATENCY * 1e6:.0f} us a collective and machine, {IMBALANCE:.0%} imbalance")
    print(f"bytes: gpt2-6m, vocabulary 824, fp32, 2 ranks: {check():.2f} MB sent a step and rank by this count; "
          "popalm prints what it sent")


main()
