"""Sft: examples in, a model that imitates their assistant turns out.

TRL's SFTTrainer on rows tokenized by the chat contract, loss on assistant tokens only.
Steps follow a token budget, easy rows first when a curriculum asks for it. Interrupted runs
continue bit for bit on a CPU. Does not judge the examples, evaluate, or run on more than
one process.
"""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from distill.checkpoints import LINEAGE, Lineage, read_lineage, save_checkpoint
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.runs import Report
from distill.sampling.protocols import LoadedModel, ModelLoader
from distill.train.auxiliary import Extras
from distill.train.batches import Curriculum, Plan, plan_steps
from distill.train.curve import CURVE, Curve, SftPoint
from distill.train.resume import States
from distill.train.rows import Rows, check_decontaminated, read_rows
from distill.train.schedule import TrainConfig


class SftConfig(TrainConfig):
    """Table of an `sft` step."""

    inputs: ClassVar[tuple[str, ...]] = ("data", "model")
    data: str
    """Step or path of the examples (a curate run folder, or an examples.jsonl)."""
    model: str
    """Step or path of the checkpoint to start from."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; give this or `tokens`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, padding not counted; give this or `steps`."""
    tokens_per_batch: int = Field(default=2048, gt=0)
    """Most tokens of one optimizer step, padding not counted."""
    accumulation: int = Field(default=1, gt=0)
    """Parts a step is computed in, short rows first: less memory and less padding, the same step."""
    order: str | None = None
    """Which of the orders written beside the examples (`orders` of curate); None takes the one they stand in."""
    curriculum: Curriculum = Curriculum()
    """Share of the rows (easiest first) to start from, and the progress at which all take part."""
    max_length: int = Field(default=2048, gt=0)
    """Longest row, in tokens. Rows are never cut."""
    on_long: Literal["refuse", "drop"] = "refuse"
    """What to do with longer rows: stop before training, or leave them out and count them."""
    mtp_loss: float = Field(default=0.0, ge=0)
    """Weight of the loss of further tokens, for a model with modules for them; DeepSeek-V3 used 0.3, then 0.1."""
    packing: bool = False
    """Put rows of a batch end to end instead of padding them; they do not see each other."""
    log_every: int = Field(default=10, gt=0)
    """Steps between rows of curve.jsonl."""
    allow_contaminated: bool = False
    """Train on data that was never compared with the benchmarks."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens")
        if self.tokens_per_batch < self.accumulation:
            raise ValueError("accumulation is larger than tokens_per_batch")
        return self


def sft(
    data: Path,
    model: Path,
    out: Path,
    config: SftConfig,
    *,
    loader: ModelLoader,
    seed: int,
    progress: Progress,
) -> Report:
    """Fine-tune `model` on `data` into the checkpoint folder `out`; continues what it finds there."""
    import torch

    source = check_decontaminated(data, config.allow_contaminated)
    loaded = loader.load(model, device="cuda" if torch.cuda.is_available() else "cpu", backends=config.backends)
    vocab_size = loaded.model.get_input_embeddings().weight.shape[0]
    rows = read_rows(data, Chat(loaded.tokenizer), vocab_size, config.max_length, config.on_long, config.order)
    plan = _plan(rows, config, seed)
    states = States(out)
    if not (out / LINEAGE).is_file():  # it is written last: with it, only cleaning up is left
        _train(loaded, rows, plan, out, config, states, seed, progress)
        name = out.name.removesuffix(".partial")
        lineage = Lineage(name=name, stage="sft", parent=read_lineage(model), data=source)
        save_checkpoint(loaded.model, loaded.tokenizer, out, lineage)
    states.clear()
    return _report(rows, plan, read_jsonl(out / CURVE, SftPoint)[-1])


def _plan(rows: Rows, config: SftConfig, seed: int) -> Plan:
    return plan_steps(
        rows.lengths,
        config.curriculum,
        tokens_per_step=config.tokens_per_batch,
        steps=config.steps,
        tokens=config.tokens,
        parts=config.accumulation,
        seed=seed,
    )


def _train(
    loaded: LoadedModel,
    rows: Rows,
    plan: Plan,
    out: Path,
    config: SftConfig,
    states: States,
    seed: int,
    progress: Progress,
) -> None:
    from datasets import Dataset
    from trl import SFTConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from distill.train.lean import Feed, arguments, optimizers
    from distill.train.sft_trainer import LeanSft

    extras = Extras(loaded.model, config, config.mtp_loss, loaded.folder)
    steps = len(plan.steps)
    begun, folder = states.newest() or (0, None)
    dataset = Dataset.from_dict({"input_ids": rows.token_ids, "labels": rows.labels})
    collate = DataCollatorForLanguageModeling(loaded.tokenizer.pad_token_id, padding_free=config.packing)
    columns = list(zip(rows.token_ids, rows.labels, strict=True))
    feed = Feed(
        plan.batches,
        begun * config.accumulation,
        lambda batch: collate([{"input_ids": columns[row][0], "labels": columns[row][1]} for row in batch]),
    )
    kwargs = arguments(states.folder, config, steps, config.log_every, seed)
    settings = SFTConfig(
        **kwargs,
        gradient_accumulation_steps=config.accumulation,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with progress.task("sft", steps, "steps") as task:
        task.advance(begun)
        trainer = LeanSft(
            states=states,
            feed=feed,
            curve=Curve(out, SftPoint, begun),
            plan=plan,
            extras=extras,
            task=task,
            model=loaded.model,
            args=settings,
            train_dataset=dataset,
            processing_class=loaded.tokenizer,
            optimizers=optimizers(loaded.model, config, steps),
        )
        trainer.curve.begin()
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        del trainer.model.forward  # TRL's head belongs to the trainer, not to the model


def _report(rows: Rows, plan: Plan, last: SftPoint) -> Report:
    steps = len(plan.steps)
    counts: dict[str, int | float] = {
        "examples": len(rows.token_ids),
        "dropped": rows.dropped,
        "tokens_per_example": round(sum(rows.lengths) / len(rows.lengths), 2),
        "steps": steps,
        "loss": round(last.loss, 4),
    }
    rate = plan.tokens[-1] / max(last.seconds, 1e-9)
    lines = [f"{steps:,} steps, {plan.tokens[-1]:,} tokens, {rate:,.0f} tok/s, loss {last.loss:.4f}"]
    beside = {"balance loss": last.balance_loss, "loss of further tokens": last.mtp_loss}
    lines += [f"{name} {value:.4f}" for name, value in beside.items() if value is not None]
    if last.experts is not None:
        counts |= last.experts.counts
        lines.append(last.experts.line)
    return Report(counts=counts, tokens=plan.tokens[-1], lines=tuple(lines))
