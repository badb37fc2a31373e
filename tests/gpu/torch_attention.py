"""Attention of the shapes in a file of `popalm bench --json`, causal and full, by PyTorch on the same GPU, and what it takes
against popalm's kernel. Sequences of one length: each backend of scaled_dot_product_attention (flash attention, cuDNN,
memory efficient, math). Ragged ones: the variable-length path (torch.nn.attention.varlen) by flash attention and by cuDNN.

    torch_attention.py BENCH.json OUT.json

The ragged lengths are drawn anew, evenly in the range that popalm drew from; times are scaled by the operations of
both. Medians of CUDA events, inputs gone through in turn so that they do not sit in the cache. popalm's own
other kernels (the portable one, cuBLAS without fusion, cuDNN called from C) stand in BENCH.json and are copied to OUT.json.
"""
import inspect
import json
import random
import re
import statistics
import sys
from collections import namedtuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before PyTorch 2.10
    varlen_attn = None

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
RAGGED_BACKENDS = ("flash", "cudnn")

Kernel = namedtuple("Kernel", "backward full")
KERNELS = {
    "attention": Kernel(False, False),
    "attention_backward": Kernel(True, False),
    "attention_full": Kernel(False, True),
    "full_backward": Kernel(True, True),
}

SAMPLES, COPIES = 20, 4

Shape = namedtuple("Shape", "count shortest longest heads kv_heads dim")


def parse_size(size):
    """The shape that popalm bench writes as `4 x 1024, 16/16 heads of 128` or `256 x 112..160, 12/12 heads of 64`."""
    found = re.fullmatch(r"(\d+) x (\d+)(?:\.\.(\d+))?, (\d+)/(\d+) heads of (\d+)", size)
    if not found:
        return None
    count, shortest, longest, heads, kv_heads, dim = (int(x) if x else None for x in found.groups())
    return Shape(count, shortest, longest or shortest, heads, kv_heads, dim)


def draw_lengths(shape):
    generator = random.Random(1)
    return [generator.randint(shape.shortest, shape.longest) for _ in range(shape.count)]


def operations(kernel, shape, lengths):
    """As popalm counts them: 2 products forward and 5 backward, of causal attention the half that is not masked."""
    products = (5 if kernel.backward else 2) * (2 if kernel.full else 1)
    return products * shape.heads * shape.dim * sum(length * length for length in lengths)


def packed_rows(tokens, shape, device):
    """Queries, keys and values [tokens, heads, dim], bf16, as views of packed rows, as in popalm."""
    rows = torch.randn(tokens, shape.heads + 2 * shape.kv_heads, shape.dim, device=device, dtype=torch.bfloat16)
    return rows.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)


def dense_call(shape, full, device):
    """q, k, v and a function of them: [count, heads, length, dim]."""
    parts = packed_rows(shape.count * shape.longest, shape, device)
    tensors = [t.unflatten(0, (shape.count, shape.longest)).transpose(1, 2).detach().requires_grad_() for t in parts]
    grouped = shape.heads != shape.kv_heads
    return tensors, lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=not full, enable_gqa=grouped)


def ragged_call(shape, lengths, full, device):
    """q, k, v and a function of them: [tokens, heads, dim] and where the sequences begin."""
    tensors = [t.detach().requires_grad_() for t in packed_rows(sum(lengths), shape, device)]
    starts = torch.tensor([0] + lengths, device=device).cumsum(0).to(torch.int32)
    known = inspect.signature(varlen_attn).parameters
    options = {"window_size": (-1, -1 if full else 0)} if "window_size" in known else {"is_causal": not full}
    if shape.heads != shape.kv_heads:
        options["enable_gqa"] = True
    longest = max(lengths)
    return tensors, lambda q, k, v: varlen_attn(q, k, v, starts, starts, longest, longest, **options)


def timed_call(kernel, tensors, function):
    if not kernel.backward:

        def forward():
            with torch.no_grad():
                function(*tensors)

        return forward
    out = function(*tensors)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, tensors, gradient, retain_graph=True)


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


def measure(kernel, shape, lengths):
    """Median seconds by backend, None where one refuses the shape or memory does not suffice."""
    ragged = shape.shortest != shape.longest
    out = {}
    for name in RAGGED_BACKENDS if ragged else BACKENDS:
        try:
            with sdpa_kernel(BACKENDS[name]):
                makes = (
                    ragged_call(shape, lengths, kernel.full, "cuda") if ragged else dense_call(shape, kernel.full, "cuda")
                    for _ in range(COPIES)
                )
                out[name] = median_seconds([timed_call(kernel, *made) for made in makes])
        except (RuntimeError, TypeError) as error:
            out[name] = None
            print(f"  {name} {kernel}: {str(error).splitlines()[0][:120]}")
        torch.cuda.empty_cache()
    return out


def compare(row):
    """One row of the bench file against PyTorch; None if it is not attention or was not measured."""
    shape = parse_size(row.get("size", ""))
    kernel = KERNELS.get(row["kernel"])
    if not kernel or not shape or "median_s" not in row:
        return None
    ragged = shape.shortest != shape.longest
    if ragged and not varlen_attn:
        print(f"{row['kernel']} {row['size']}: PyTorch {torch.__version__} has no variable-length attention")
        return None
    lengths = draw_lengths(shape)
    scale = row["operations"] / operations(kernel, shape, lengths)
    times = {name: s and s * scale for name, s in measure(kernel, shape, lengths).items()}
    ratios = ", ".join(f"{name} x{s / row['median_s']:.2f}" if s else f"{name} -" for name, s in times.items())
    path = "variable length" if ragged else "scaled_dot_product_attention"
    print(f"{row['kernel']} {row['size']}: popalm {row['median_s'] * 1e6:.1f} us; PyTorch ({path}) takes {ratios}")
    return {
        "kernel": row["kernel"],
        "size": row["size"],
        "popalm_s": row["median_s"],
        "popalm_baselines": {b["name"]: b["median_s"] for b in row.get("baselines", []) if "median_s" in b},
        "path": path,
        "torch_s": times,
    }


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        bench = json.load(file)
    rows = [compared for row in bench["rows"] if (compared := compare(row))]
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda, "rows": rows}
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    print(f"{len(rows)} shapes compared with PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
