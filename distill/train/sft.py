"""Sft: examples in, a model that imitates their assistant turns out.

TRL's SFTTrainer on rows tokenized by the chat contract, loss on assistant tokens only.
Steps follow a token budget, easy rows first when a curriculum asks for it. Interrupted runs
continue bit for bit on a CPU. A teacher's experts may be shared by several processes
(`distill.train.ranks`): a step is the same step, its rows dealt out to them. Does not judge
the examples or evaluate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.checkpoints import LINEAGE, Lineage, read_lineage, save_checkpoint
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.runs import Report
from distill.sampling.protocols import LoadedModel, ModelLoader
from distill.train.adapters import Adapters
from distill.train.curve import CURVE, Curve, SftPoint
from distill.train.guard.watch import Given, Watch
from distill.train.lesson import Imitation, Lesson
from distill.train.logs import check_logs
from distill.train.outcome import Kept, Merged, Outcome, read_outcome, write_outcome
from distill.train.ranks import Agree, Ranks, alone
from distill.train.resume import States
from distill.train.rope import change_rope
from distill.train.sft_table import SftConfig

if TYPE_CHECKING:
    from torch import Tensor

    from distill.train.checked import Checked
    from distill.train.preflight.findings import Findings


@dataclass(frozen=True, slots=True)
class _Ready:
    """A run that may begin."""

    checked: "Checked"
    states: States
    curve: Curve[SftPoint] | None
    """None on processes that write none."""
    resumed: tuple[int, Path] | None
    """Step and folder of the state to continue from."""

    @property
    def ranks(self) -> Ranks | None:
        """Who shares the model."""
        return self.checked.extras.ranks

    @property
    def leads(self) -> bool:
        """Whether this process writes what is read later."""
        return self.ranks is None or self.ranks.rank == 0


def sft(
    data: Path,
    model: Path,
    out: Path,
    config: SftConfig,
    *,
    loader: ModelLoader,
    seed: int,
    progress: Progress,
    agree: Agree["_Ready"] = alone,
    lesson: Lesson | None = None,
    guard: Given | None = None,
) -> Report:
    """Fine-tune `model` on `data` into the checkpoint folder `out`; continues what it finds there.

    `lesson` is for stages whose loss is another; `guard` is what a table `guard` needs.

    With `expert_parallel` above 1 every process calls it, with the `agree` they share; process 0 alone writes the
    checkpoint and has a report worth reading.
    """
    from distill.train.checked import check_isolation
    from distill.train.preflight.checks import tell

    done = (out / LINEAGE).is_file()  # it is written last: with it, only cleaning up is left
    lesson = lesson or Imitation()
    check_logs(config.log)
    watch = _watch(data, out, config, guard, loader, seed, progress)
    ready = agree(lambda: _prepare(data, model, out, config, loader, seed, lesson, done=done))
    checked = ready.checked
    findings = check_isolation(checked, config)
    if not done:
        tell(findings, progress)
        _check_states(ready, out)
        if watch is not None:
            base = _base(checked, model, config, loader)
            watch.before(base.model, base.tokenizer, checked.rows, checked.held_out, bf16=config.bf16)
            del base
        state, kept = _train(ready, config, seed, progress, lesson, watch)
        if ready.leads:
            trained, merged = checked.loaded.model, None
            if checked.adapters is not None:
                trained, merged = _merge(checked, checked.adapters, model, out, config, loader)
            if watch is not None:
                watch.after(trained, checked.loaded.tokenizer)
            write_outcome(out, Outcome(kept=kept, merged=merged))
            name = out.name.removesuffix(".partial")
            lineage = Lineage(name=name, stage=lesson.stage, parent=read_lineage(model), data=checked.source)
            save_checkpoint(trained, checked.loaded.tokenizer, out, lineage, state)
    if not ready.leads:
        return Report()
    ready.states.clear()
    report = _report(checked, findings, read_jsonl(out / CURVE, SftPoint)[-1], read_outcome(out))
    return report if watch is None else watch.told(report)


def preflight(
    data: Path,
    model: Path,
    out: Path,
    config: SftConfig,
    *,
    loader: ModelLoader,
    seed: int,
    progress: Progress,
    lesson: Lesson | None = None,
    guard: Given | None = None,
) -> "Findings":
    """Everything `sft`, called so, may refuse before its first step, in one process. Writes nothing."""
    from distill.train.checked import check, check_isolation

    check_logs(config.log)
    watch = _watch(data, out, config, guard, loader, seed, progress)
    checked = check(data, model, config, loader=loader, seed=seed, lesson=lesson)
    findings = check_isolation(checked, config)
    if watch is None:
        return findings
    base = _base(checked, model, config, loader)
    return findings.and_then(watch.check(base.model, base.tokenizer))


def _watch(
    data: Path,
    out: Path,
    config: SftConfig,
    guard: Given | None,
    loader: ModelLoader,
    seed: int,
    progress: Progress,
) -> Watch | None:
    """The guard the table asks for. Raises UserError."""
    if config.guard is None:
        return None
    assert guard is not None, "given with its table"
    return Watch(config.guard, guard, data, out, loader=loader, seed=seed, progress=progress)


def _prepare(
    data: Path,
    model: Path,
    out: Path,
    config: SftConfig,
    loader: ModelLoader,
    seed: int,
    lesson: Lesson,
    *,
    done: bool,
) -> _Ready:
    """A checked run and where it continues from. Raises UserError."""
    from distill.train.checked import check

    checked = check(data, model, config, loader=loader, seed=seed, lesson=lesson)
    ranks = checked.extras.ranks
    states = States(out, ranks, config.keep)
    resumed = states.newest()
    leads = ranks is None or ranks.rank == 0
    curve = Curve(out, SftPoint, resumed[0] if resumed else 0, config.log) if leads and not done else None
    return _Ready(checked, states, curve, resumed)


def _base(checked: "Checked", model: Path, config: SftConfig, loader: ModelLoader) -> LoadedModel:
    """The model as it came: loaded again where it was quantized or its positions were changed."""
    if config.rope is None and (config.lora is None or config.lora.base == "full"):
        return checked.loaded
    return loader.load(model, device=str(checked.loaded.model.device), backends=config.backends)


def _merge(
    checked: "Checked", adapters: Adapters, model: Path, out: Path, config: SftConfig, loader: ModelLoader
) -> tuple[Any, Merged]:
    """The checkpoint's model with the adapters added, and how it scores."""
    from distill.train.merging import merge

    def reload(device: str) -> Any:
        original = loader.load(model, device=device, backends=config.backends).model
        if config.rope is not None:
            change_rope(original, config.rope, model)
        return original

    lineage = read_lineage(model)
    base = lineage.name if lineage is not None else model.name
    loaded, rows, held_out = checked.loaded, checked.rows, checked.held_out
    return merge(loaded.model, adapters, out, base=base, rows=rows, held_out=held_out, reload=reload)


def _check_states(ready: _Ready, out: Path) -> None:
    """UserError on every process when they do not all continue from the same step."""
    import torch

    if ready.ranks is None:
        return
    step = ready.resumed[0] if ready.resumed else 0
    total, squares = ready.ranks.sum(torch.tensor([step, step * step])).tolist()
    if ready.ranks.world * squares != total * total:
        raise UserError(f"{out}: processes found different states to continue from; it must be one folder for all")


def _train(
    ready: _Ready, config: SftConfig, seed: int, progress: Progress, lesson: Lesson, watch: Watch | None
) -> tuple[dict[str, "Tensor"] | None, Kept | None]:
    """Train; the whole model's tensors where this process's model has not all of them, and which state they are of."""
    from datasets import Dataset
    from trl import SFTConfig

    from distill.train.lean import Feed, arguments, optimizers

    checked, ranks = ready.checked, ready.ranks
    loaded, rows, plan, collate = checked.loaded, checked.rows, checked.plan, checked.collate
    steps = len(plan.steps)
    begun, folder = ready.resumed or (0, None)
    dataset = Dataset.from_dict({"input_ids": rows.token_ids, "labels": rows.labels})
    columns = list(zip(rows.token_ids, rows.labels, strict=True))
    # Parts of a step are sorted by length, so dealing them out in turn gives processes rows of like length.
    batches = plan.batches if ranks is None else plan.batches[ranks.rank :: ranks.world]

    def batch(places: list[int]) -> dict[str, Any]:
        rows_here = [{"input_ids": columns[row][0], "labels": columns[row][1]} for row in places]
        return {**collate(rows_here), **lesson.beside(places)}

    feed = Feed(batches, begun * config.accumulation, batch)
    kwargs = arguments(ready.states.folder, config, steps, config.log_every, seed, ranks)
    if checked.zero is not None:
        kwargs |= {"deepspeed": checked.zero, "bf16": False, "log_level": "error"}  # autocast is DeepSpeed's
    elif ranks is not None and ranks.wrapped:
        unused = checked.extras.offered is not None  # an expert without a token, a module without a loss
        kwargs |= {"ddp_find_unused_parameters": unused}
    settings = SFTConfig(
        **kwargs,
        gradient_accumulation_steps=config.accumulation,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with progress.task(lesson.stage, steps, "steps") as task:
        task.advance(begun)
        trainer = lesson.trainer(
            states=ready.states,
            feed=feed,
            curve=ready.curve,
            plan=plan,
            extras=checked.extras,
            task=task,
            adapters=checked.adapters,
            held_out=checked.held_out,
            guard=watch,
            model=loaded.model,
            args=settings,
            train_dataset=dataset,
            processing_class=loaded.tokenizer,
            optimizers=optimizers(loaded.model, config, steps),
        )
        if trainer.curve is not None:
            trainer.curve.begin()
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        kept = trainer.take_best() if config.final == "best" else None
        if trainer.curve is not None:
            trainer.curve.close()
        state = trainer.whole_state()
        del trainer.model.forward  # TRL's head belongs to the trainer, not to the model
    return state, kept


def _report(checked: "Checked", findings: "Findings", last: SftPoint, outcome: Outcome) -> Report:
    rows, plan = checked.rows, checked.plan
    steps = len(plan.steps)
    counts: dict[str, int | float] = {
        "examples": len(rows.token_ids),
        "dropped": rows.dropped,
        "tokens_per_example": round(sum(rows.lengths) / len(rows.lengths), 2),
        "steps": steps,
        "loss": round(last.loss, 4),
        **findings.counts,
    }
    rate = plan.tokens[-1] / max(last.seconds, 1e-9)
    lines = [f"{steps:,} steps, {plan.tokens[-1]:,} tokens, {rate:,.0f} tok/s, loss {last.loss:.4f}"]
    beside = {"balance loss": last.balance_loss, "loss of further tokens": last.mtp_loss}
    lines += [f"{name} {value:.4f}" for name, value in beside.items() if value is not None]
    if checked.held_out is not None and last.held_out_loss is not None:
        counts |= {"held_out": len(checked.held_out.token_ids), "held_out_loss": round(last.held_out_loss, 4)}
        lines.append(f"loss of {len(checked.held_out.token_ids)} held-out rows {last.held_out_loss:.4f}")
    lines += checked.told
    if "packing_error" in counts:
        lines.append(f"packing {findings.recorded['packing']}")
    if outcome.kept is not None:
        counts["final_step"] = outcome.kept.step
        lines.append(outcome.kept.line(steps))
    if outcome.merged is not None:
        counts |= outcome.merged.counts
        lines.append(outcome.merged.line)
    if last.experts is not None:
        counts |= last.experts.counts
        lines.append(last.experts.line)
    marks = {"preflight": findings.recorded}
    return Report(counts=counts, tokens=plan.tokens[-1], lines=tuple(lines), marks=marks)
