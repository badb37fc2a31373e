"""Attention of the shapes in a file of `popalm bench --json`, by PyTorch: each backend of scaled_dot_product_attention
(flash attention, cuDNN, memory efficient, math), and what it takes against popalm's kernel.

    torch_attention.py BENCH.json OUT.json

Only shapes whose sequences have one length: PyTorch's attention knows no packed ones. Medians of CUDA events, inputs gone
through in turn so that they do not sit in the cache.
"""
import json
import re
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
SAMPLES, COPIES = 20, 4


def inputs(count, length, heads, kv_heads, dim):
    """Queries, keys and values [count, heads, length, dim], bf16, as views of packed rows, as in popalm."""
    rows = torch.randn(count, length, heads + 2 * kv_heads, dim, device="cuda", dtype=torch.bfloat16)
    parts = [t.transpose(1, 2).detach() for t in rows.split([heads, kv_heads, kv_heads], dim=2)]
    return [t.requires_grad_() for t in parts]


def median_seconds(calls):
    """Of one call, after one of each to warm up."""
    seconds = []
    for call in calls:
        call()
    for i in range(SAMPLES):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        calls[i % len(calls)]()
        stop.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(stop) / 1000)
    return statistics.median(seconds)


def forward_call(tensors, grouped):
    q, k, v = tensors

    def call():
        with torch.no_grad():
            scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

    return call


def backward_call(tensors, grouped):
    q, k, v = tensors
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)


def measure(kernel, shape):
    """Median seconds by backend; None where a backend refuses the shape or memory does not suffice."""
    make = forward_call if kernel == "attention" else backward_call
    grouped = shape[2] != shape[3]
    out = {}
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                out[name] = median_seconds([make(inputs(*shape), grouped) for _ in range(COPIES)])
        except RuntimeError:
            out[name] = None
        torch.cuda.empty_cache()
    return out


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        bench = json.load(file)
    rows = []
    for row in bench["rows"]:
        size = re.fullmatch(r"(\d+) x (\d+), (\d+)/(\d+) heads of (\d+)", row.get("size", ""))
        if row["kernel"] not in ("attention", "attention_backward") or not size or "median_s" not in row:
            continue
        times = measure(row["kernel"], [int(x) for x in size.groups()])
        rows.append({"kernel": row["kernel"], "size": row["size"], "popalm_s": row["median_s"], "torch_s": times})
        ratios = ", ".join(
            f"{name} x{seconds / row['median_s']:.2f}" if seconds else f"{name} -" for name, seconds in times.items()
        )
        print(f"{row['kernel']} {row['size']}: popalm {row['median_s'] * 1e6:.1f} us; PyTorch takes {ratios}")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda, "rows": rows}
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    print(f"{len(rows)} shapes compared with PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
