"""Checked: all that a run which trains on examples is made of, looked at before its first step.

What `sft` and stages with another lesson share before they train: data, model, rows, plan, and everything that may be
refused about them (`distill.train.preflight`). Takes no step and writes nothing, so that `distill preflight` makes the
same calls as a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.prompts import Chat
from distill.sampling.protocols import LoadedModel, ModelLoader
from distill.train.adapters import Adapters, adapt
from distill.train.auxiliary import Extras
from distill.train.batches import Plan, plan_steps
from distill.train.held_out import hold_out
from distill.train.lesson import Imitation, Lesson
from distill.train.packed import attend_by_rows
from distill.train.preflight.batch import Collate, collator, longest
from distill.train.preflight.checks import check_curriculum, check_training
from distill.train.preflight.findings import Finding, Findings
from distill.train.preflight.memory import check_memory, free_memory
from distill.train.preflight.packing import check_packing
from distill.train.rope import change_rope
from distill.train.rows import Rows, check_decontaminated, read_rows
from distill.train.sft_table import SftConfig


@dataclass(frozen=True, slots=True)
class Checked:
    """A run that nothing speaks against."""

    source: str
    """Fingerprint of the data."""
    loaded: LoadedModel
    rows: Rows
    held_out: Rows | None
    collate: Collate
    plan: Plan
    extras: Extras
    adapters: Adapters | None
    zero: dict[str, Any] | None
    """DeepSpeed's configuration."""
    told: tuple[str, ...]
    """Lines of the report about the model that is trained."""
    findings: Findings


def check(
    data: Path, model: Path, config: SftConfig, *, loader: ModelLoader, seed: int, lesson: Lesson | None = None
) -> Checked:
    """Open and look at everything. Raises UserError with what would be refused before the first step.

    `lesson` is for stages whose loss is another.
    """
    source = check_decontaminated(data, config.allow_contaminated)
    replicas = config.data_parallel > 1 or config.deepspeed is not None
    trained_on = "cuda" if torch.cuda.is_available() else "cpu"
    device = "cpu" if replicas else trained_on  # Trainer places what it wraps
    shape, processes = loader.train_shape(model), config.parts // config.accumulation
    check_memory(config, shape, free_memory(trained_on, processes))
    quantized = config.lora is not None and config.lora.base != "full"  # layer by layer, on the way to the device
    read_on = "cpu" if quantized else device
    loaded = loader.load(model, device=read_on, backends=config.backends, expert_parallel=config.expert_parallel)
    told = [change_rope(loaded.model, config.rope, model)] if config.rope is not None else []
    adapters = adapt(loaded.model, config.lora, seed=seed, device=device) if config.lora is not None else None
    told += adapters.lines if adapters is not None else ()
    if config.packing:
        attend_by_rows(loaded.model)
    zero = _replicate(loaded.model, config) if replicas else None
    vocab_size = loaded.model.get_input_embeddings().weight.shape[0]
    rows = read_rows(data, Chat(loaded.tokenizer), vocab_size, config.max_length, config.on_long, config.order)
    check_curriculum(rows, config.curriculum.start, data)
    rows, held_out = hold_out(rows, config.held_out) if config.held_out else (rows, None)
    collate = collator(loaded.tokenizer, packing=config.packing)
    findings = check_training(loaded, rows, collate)
    (lesson or Imitation()).prepare(rows, loaded)
    extras = Extras(loaded.model, config, config.mtp_loss, loaded.folder)
    if extras.ranks is not None and not extras.ranks.wrapped:
        _check_lengths(rows, extras, config)
    plan = _plan(rows, config, seed)
    largest = longest(rows, plan.batches, packing=config.packing)
    free, placed = free_memory(trained_on, processes), device == trained_on
    memory = check_memory(config, shape, free, tokens=largest, loaded=placed)
    return Checked(
        source=source,
        loaded=loaded,
        rows=rows,
        held_out=held_out,
        collate=collate,
        plan=plan,
        extras=extras,
        adapters=adapters,
        zero=zero,
        told=tuple(told),
        findings=findings.and_then(memory),
    )


def check_isolation(checked: Checked, config: SftConfig) -> Findings:
    """The findings, with the proof that packed rows do not see each other where they are packed. Raises UserError.

    Processes that share a model make this call together, after all of them were checked.
    """
    if not config.packing:
        return checked.findings.and_then(Finding("packing", "off"))
    found = check_packing(checked.loaded.model, checked.rows, checked.collate, bf16=config.bf16)
    if found is None:
        return checked.findings.and_then(Finding("packing", "one row, nothing to keep apart"))
    return checked.findings.and_then(found.finding, packing_error=found.error, packing_rows=found.rows)


def _replicate(model: Any, config: SftConfig) -> dict[str, Any] | None:
    """Let the processes of this run share the model's training; DeepSpeed's configuration, if there is one."""
    from distill.train.replicas import Replicas
    from distill.train.zero import prepare_zero, read_zero

    zero = None
    if config.deepspeed is not None:
        zero = read_zero(config.deepspeed, bf16=config.bf16)
        prepare_zero()
    model.ranks = Replicas(zero)
    if getattr(model, "auxiliary", None) is not None:
        model.auxiliary.join = model.ranks.sum
    return zero


def _check_lengths(rows: Rows, extras: Extras, config: SftConfig) -> None:
    """Processes that share a model have to run the same modules: UserError where a short row would skip one."""
    further = extras.offered.further_tokens if extras.offered is not None and config.mtp_loss else 0
    if min(rows.lengths) <= further:
        raise UserError(
            f"mtp_loss: a row of {min(rows.lengths)} tokens has no token for all {further} modules; with "
            "expert_parallel above 1 every row needs more tokens than there are modules"
        )


def _plan(rows: Rows, config: SftConfig, seed: int) -> Plan:
    return plan_steps(
        rows.lengths,
        config.curriculum,
        tokens_per_step=config.tokens_per_batch,
        steps=config.steps,
        tokens=config.tokens,
        parts=config.parts,
        seed=seed,
    )
