"""Supervised fine-tuning on the CPU: popalm beside PyTorch in eager mode, the same model, examples and threads.

usage: sft.py FOLDER [--popalm BIN] [--threads N] [--steps N] [--data DIR]

PyTorch's side is the usual training loop of transformers: batches of examples of like length, padded to the longest, with as
many tokens as popalm's packed ones; fp32, fused AdamW, loss on the replies only. Tokens are those of the examples,
without padding. popalm's seconds are those of the whole stage, held-out losses and checkpoint included. Needs torch,
transformers and tokenizers.
"""
import json
import random
import time

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import common


def batches(examples):
    """Padded batches of at most TOKENS_PER_BATCH tokens: (ids, mask, labels, tokens)."""
    random.seed(0)
    order = sorted(examples, key=lambda e: len(e[0]) + len(e[1]) + random.random())
    out, rows = [], []
    for i, (prompt, reply) in enumerate(order):
        rows.append((prompt + reply, [-100] * len(prompt) + reply))
        longest = len(rows[-1][0])
        following = len(order[i + 1][0]) + len(order[i + 1][1]) if i + 1 < len(order) else 0
        if following and max(longest, following) * (len(rows) + 1) <= common.TOKENS_PER_BATCH:
            continue
        def pad(values, fill):
            return torch.tensor([v + [fill] * (longest - len(v)) for v in values])
        ids, labels = [r[0] for r in rows], [r[1] for r in rows]
        mask = pad([[1] * len(r) for r in ids], 0)
        out.append((pad(ids, 0), mask, pad(labels, -100), int(mask.sum())))
        rows = []
    random.shuffle(out)
    return out


def train(folder, data, steps):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds = tokens = 0
    for step in range(-2, steps):  # two to warm up
        ids, mask, labels, count = data[step % len(data)]
        start = time.perf_counter()
        loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if step >= 0:
            seconds += time.perf_counter() - start
            tokens += count
    return tokens / seconds


def main():
    options = common.arguments(__doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    timing, _ = common.run(options, "--set", "ppo.steps=1", "--set", "reward.epochs=0.05")
    tokenizer = Tokenizer.from_file(common.stage(options.folder, "sft") + "/tokenizer.json")
    examples = common.examples(options, tokenizer)
    folder = common.export(options, common.stage(options.folder, "sft"), "sft-hf")
    ours = sum(len(p) + len(r) for p, r in examples) / timing["runs"][0]["seconds"]["sft"]
    theirs = train(folder, batches(examples), options.steps)
    ours_bytes, theirs_bytes = common.stage_peak_bytes(options.folder, "sft"), common.peak_bytes()
    print(json.dumps({
        "model": common.EXPERIMENT["model"]["preset"], "threads": options.threads, "torch": torch.__version__,
        "tokens_per_second": {"popalm": round(ours), "torch": round(theirs), "ratio": round(ours / theirs, 2)},
        "peak_mib": {"popalm": ours_bytes >> 20, "torch": theirs_bytes >> 20},
    }, indent=2))


main()
