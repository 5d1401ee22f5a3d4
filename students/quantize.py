"""Quantize: a checkpoint whose layers keep 8 or 4 bits a weight, through bitsandbytes.

int8 after Dettmers et al. 2022 (LLM.int8), nf4 after Dettmers et al. 2023 (QLoRA). The
result loads like any other student. Embedding, head and norms stay as they are; so do
layers whose shape the 4-bit kernels cannot take, and the report lists them. Says how far
the logits moved on random token sequences; accuracy is the business of `bench`.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from distill.checkpoints import Lineage, read_config, read_lineage, save_checkpoint
from distill.errors import UserError
from distill.progress import Progress
from distill.quantized import BLOCK, OUTPUT_MULTIPLE, fits, keep_unpacked
from distill.recipe import StageConfig
from distill.runs import Report
from students.loader import load_student

PROBES, PROBE_TOKENS = 4, 64
"""Random sequences, and their length, on which logits are compared."""


class QuantizeConfig(StageConfig):
    """The table of a `quantize` step."""

    inputs: ClassVar[tuple[str, ...]] = ("model",)
    model: str
    """The checkpoint step to quantize."""
    method: Literal["int8", "nf4", "fp4"]
    """8 bits a weight, or 4 bits as normal-float or plain float."""
    double_quant: bool = False
    """Quantize the 4-bit scales too: 4.1 instead of 4.5 bits a weight, and a little less exact."""


def quantize(model: Path, out: Path, config: QuantizeConfig, *, seed: int, progress: Progress) -> Report:
    """Write the quantized checkpoint folder and say what it saved and what it cost."""
    if "quantization_config" in read_config(model):
        raise UserError(f"{model}: already quantized; quantize the checkpoint it came from")
    original = load_student(model)
    layers = {name: module for name, module in original.model.named_modules() if _is_layer(name, module)}
    skipped = [name for name, module in layers.items() if config.method != "int8" and not fits(module)]
    if len(skipped) == len(layers):
        raise UserError(
            f"{model}: no layer fits {config.method} "
            f"(inputs must be a multiple of {BLOCK}, outputs of {OUTPUT_MULTIPLE}); use int8"
        )
    _write(model, out, config, original.tokenizer, skipped)
    weights = sum(weight.numel() for weight in original.model.parameters())
    share = sum(module.weight.numel() for name, module in layers.items() if name not in skipped) / weights
    error = logit_error(original.model, load_student(out).model, seed)
    before, after = _bytes(model), _bytes(out)
    lines = (
        f"{config.method}: {before:,} -> {after:,} bytes ({after / before:.0%})",
        f"weights quantized: {share:.0%} (embedding, head, norms and {len(skipped)} layers stay as they are)",
        f"relative logit error on {PROBES} random sequences: {error:.4f}",
        *(f"not quantized, shape: {name} {tuple(layers[name].weight.shape)}" for name in skipped),
    )
    counts = {"bytes_before": before, "bytes_after": after, "skipped": len(skipped)}
    measured = {"share_quantized": round(share, 4), "logit_error": round(error, 6)}
    return Report(counts={**counts, **measured}, lines=lines)


@torch.inference_mode()
def logit_error(original: Any, quantized: Any, seed: int) -> float:
    """|difference| / |original| of all logits over a few random token sequences."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(original.config.vocab_size, (PROBES, PROBE_TOKENS), generator=generator)
    expected: Tensor = original(input_ids=ids_BT, use_cache=False).logits.float()
    got: Tensor = quantized(input_ids=ids_BT, use_cache=False).logits.float()
    return float((got - expected).norm() / expected.norm())


def _write(model: Path, out: Path, config: QuantizeConfig, tokenizer: Any, skipped: list[str]) -> None:
    """Quantize while loading and save before any forward, which could repack the weights."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = config.method != "int8"
    settings = BitsAndBytesConfig(
        load_in_8bit=not four_bit,
        load_in_4bit=four_bit,
        bnb_4bit_quant_type=config.method if four_bit else "nf4",
        bnb_4bit_use_double_quant=config.double_quant,
        llm_int8_skip_modules=["lm_head", *skipped],
    )
    quantized = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=settings, device_map="cpu", dtype="auto", use_safetensors=True, local_files_only=True
    )
    keep_unpacked(quantized)
    parent = read_lineage(model)
    save_checkpoint(
        quantized, tokenizer, out, Lineage(name=out.name.removesuffix(".partial"), stage="quantize", parent=parent)
    )


def _is_layer(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and ".layers." in name


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
