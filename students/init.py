"""Student-init: a fresh dense student, random weights, ready for `sft`.

The embedding is sized by the tokenizer's largest id, since a tokenizer may have ids beyond
its length, and padded for the sake of matrix shapes. Real models from elsewhere need no
init: a recipe names their folder.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from distill.checkpoints import Lineage, save_checkpoint
from distill.progress import Progress
from distill.recipe import StageConfig
from distill.runs import Report
from students.specs import find_spec, model_config

VOCAB_MULTIPLE = 32
"""The embedding has a multiple of this many rows; bitsandbytes and GPU tiles want it."""


class StudentInitConfig(StageConfig):
    """The table of a `student-init` step."""

    spec: str
    """Name of a shape in students/specs.py, such as `mini-95k`."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the shape to replace, such as layers = 3."""
    tokenizer: str = "mini"
    """`mini`, or the folder of a tokenizer (with a slash)."""


def student_init(out: Path, config: StudentInitConfig, *, tokenizer: Any, seed: int, progress: Progress) -> Report:
    """Write a checkpoint folder with fresh weights; the same seed gives the same bytes."""
    from transformers import AutoModelForCausalLM

    spec = find_spec(config.spec, config.overrides)
    vocab_size = padded_vocab(tokenizer)
    shape = model_config(spec, vocab_size, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    save_checkpoint(model, tokenizer, out, Lineage(name=out.name.removesuffix(".partial"), stage="student-init"))
    parameters = sum(weight.numel() for weight in model.parameters())
    line = f"{config.spec}: {spec.arch}, {parameters:,} parameters, vocabulary {vocab_size}"
    return Report(counts={"parameters": parameters, "vocabulary": vocab_size}, lines=(line,))


def padded_vocab(tokenizer: Any) -> int:
    """Rows an embedding needs for every id of this tokenizer."""
    rows: int = max(tokenizer.get_vocab().values()) + 1
    return -(-rows // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
