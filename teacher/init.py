"""Teacher-init: a teacher with random weights, in the folder format everything else reads."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from distill.checkpoints import Lineage, save_checkpoint
from distill.progress import Progress
from distill.recipe import StageConfig
from distill.runs import Report


class TeacherInitConfig(StageConfig):
    """Which architecture to make."""

    preset: Literal["mini", "v3", "r1", "v2", "v2-lite"] = "mini"
    """Shape to start from, from teacher/config.py."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the preset's config.json to replace; `vocab_size` and token ids follow the tokenizer."""
    tokenizer: str = "mini"
    """`mini`, or the folder of a tokenizer (with a slash)."""


def teacher_init(out: Path, config: TeacherInitConfig, *, tokenizer: Any, seed: int, progress: Progress) -> Report:
    """Write a fresh teacher into `out`; the same seed gives the same bytes."""
    import torch

    from teacher.config import preset
    from teacher.model import DeepseekForCausalLM
    from teacher.sizes import count

    ids = {
        "vocab_size": max(tokenizer.get_vocab().values()) + 1,  # ids may lie beyond len(tokenizer)
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shape = preset(config.preset, **{**ids, **config.overrides})
    sizes = count(shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DeepseekForCausalLM(shape)
    save_checkpoint(model, tokenizer, out, Lineage(name=out.name.removesuffix(".partial"), stage="teacher-init"))
    return Report(
        counts={
            "parameters": sizes.total,
            "active_parameters": sizes.active,
            "cache_values_per_token": sizes.cache_values_per_token,
            "mtp_parameters": sizes.further.total,
        },
        lines=(
            f"parameters              {sizes.total:>14,}",
            f"active a token          {sizes.active:>14,}  (all but unchosen experts; embedding and head count)",
            f"further tokens (MTP)    {sizes.further.total:>14,}  (beside the above)",
            f"cache values a token    {sizes.cache_values_per_token:>14,}",
        ),
    )
