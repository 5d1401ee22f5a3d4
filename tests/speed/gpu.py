"""`make gpu`: the experts kernel on a GPU, checked and then timed against torch, on a bare machine.

Needs python3 with torch and triton and nothing else. `--slice tests` compares the kernel with
the float64 reference (it may err at most twice as much as plain PyTorch in the same dtype);
`--slice fwd` times it against torch's grouped product and writes docs/speed/moe-<device>.csv
(SPEED_OUT names another folder). `--toy` runs the whole path in the interpreter, at toy size,
and writes no row. Bytes = weights of the experts hit + activations, each once;
FLOPs = 6*M*K*D*F.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Callable
from pathlib import Path

if "--toy" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
import triton
from torch import Tensor

from teacher.kernels import grouped_mlp, grouped_mm, reference

# name: width D, expert width F, experts E, experts a token K
SHAPES = {"v3": (7168, 2048, 256, 8), "v2-lite": (2048, 1408, 64, 6), "qwen3-30b-a3b": (2048, 768, 128, 8)}
TOY = {"toy": (64, 48, 4, 2)}
TOKENS = (1, 8, 32, 128, 512, 2048, 8192)
HEADER = "date,device,versions,shape,tokens,dtype,ours_ms,grouped_mm_ms,ratio,tbytes_per_s,tflops"


def case(shape: tuple[int, int, int, int], tokens: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """x (N, D), weights (N, K) float32, chosen (N, K), gate_up (E, 2F, D), down (E, D, F)."""
    width, inner, experts, choices = shape
    random = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, device=device, dtype=dtype) / width**0.5

    scores_NE = torch.rand(tokens, experts, generator=random, device=device)
    weights_NK, chosen_NK = scores_NE.topk(choices, dim=-1)
    return (
        normal(tokens, width),
        weights_NK,
        chosen_NK,
        normal(experts, 2 * inner, width),
        normal(experts, width, inner),
    )


def check(shape: tuple[int, int, int, int], tokens: int, dtype: torch.dtype, device: str) -> None:
    """Against float64, the kernel errs at most twice as much as plain PyTorch in the same dtype."""
    x, weights, chosen, gate_up, down = case(shape, tokens, dtype, device)
    exact = reference.grouped_mlp(x.double(), weights.double(), chosen, gate_up.double(), down.double())
    plain = (reference.grouped_mlp(x, weights, chosen, gate_up, down).double() - exact).abs().max()
    ours = (grouped_mlp.grouped_mlp(x, weights, chosen, gate_up, down).double() - exact).abs().max()
    assert ours <= 2 * plain + 1e-12, f"{shape} {tokens} {dtype}: error {ours:.3e}, plain PyTorch {plain:.3e}"
    print(f"ok  D,F,E,K {shape}  tokens {tokens}  {dtype}  error {ours:.2e} (plain {plain:.2e})", flush=True)


def milliseconds(call: Callable[[], object]) -> float:
    """Median of triton's own timer, caches flushed between runs."""
    return float(triton.testing.do_bench(call, warmup=50, rep=200, return_mode="median"))


def row(name: str, tokens: int) -> str:
    """Both sides in one go, on the same tensors."""
    shape = SHAPES[name]
    width, inner, _, choices = shape
    x, weights, chosen, gate_up, down = case(shape, tokens, torch.bfloat16, "cuda")
    with torch.inference_mode():
        ours = milliseconds(lambda: grouped_mlp.grouped_mlp(x, weights, chosen, gate_up, down))
        peer = milliseconds(lambda: grouped_mm.grouped_mlp(x, weights, chosen, gate_up, down))
    moved = 2 * (len(chosen.unique()) * 3 * width * inner + 2 * tokens * width)
    flops = 6 * tokens * choices * width * inner
    stamp = (
        f"{datetime.date.today()},{torch.cuda.get_device_name()},torch {torch.__version__} triton {triton.__version__}"
    )
    rates = f"{moved / ours / 1e9:.3f},{flops / ours / 1e9:.1f}"
    return f"{stamp},{name},{tokens},bf16,{ours:.4f},{peer:.4f},{peer / ours:.2f},{rates}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slice", choices=("tests", "fwd"), default="tests")
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args()
    if asked.toy:
        check(TOY["toy"], 5, torch.float32, "cpu")
        check(TOY["toy"], 1, torch.float16, "cpu")
        return
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here; --toy runs the same path in the interpreter")
    if asked.slice == "tests":
        for tokens in (1, 7, 64, 300):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                check((256, 96, 8, 2), tokens, dtype, "cuda")
        return
    out = Path(os.environ.get("SPEED_OUT", Path(__file__).parent.parent.parent / "docs/speed"))
    device = torch.cuda.get_device_name().split()[-1].lower()
    rows = [row(name, tokens) for name in SHAPES for tokens in TOKENS]
    (out / f"moe-{device}.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    print("\n".join([HEADER, *rows]))


if __name__ == "__main__":
    main()
