"""Rl: a model learns from its own answers, judged.

Group-relative policy optimization (DeepSeekMath, arXiv 2402.03300) through TRL's
GRPOTrainer, rollouts through our engine, rewards from the one judge. It cannot lift what is
never right, so it measures first and refuses below a floor. Every level of every family
stays in the mix. Does not learn from traces of others (that is sft) nor run on more than
one process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from distill.checkpoints import LINEAGE, Lineage, read_lineage, save_checkpoint
from distill.content import file_fingerprint
from distill.errors import UserError
from distill.harvest.draw import Judge
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Params, Problem
from distill.runs import MANIFEST, Report, read_manifest
from distill.sampling.protocols import CACHE_GB, LoadedModel, ModelLoader
from distill.selection import Instruction, Selection, asking, read_problems, select
from distill.train.auxiliary import Extras
from distill.train.curve import CURVE, Curve, RlPoint
from distill.train.mix import plan_prompts
from distill.train.resume import States
from distill.train.rollouts import Rollouts, accuracy
from distill.train.schedule import TrainConfig

PROBE_ROUND = 1_000_000
"""The probe's place among the steps, as far as seeds go: no step has it."""


class RlConfig(TrainConfig):
    """Table of an `rl` step."""

    inputs: ClassVar[tuple[str, ...]] = ("model", "problems")
    model: str
    """Step or path of the checkpoint to start from."""
    problems: str
    """Step or path of the problems."""
    select: Selection = Selection()
    """Which problems take part."""
    focus: Mapping[str, float] = Field(default_factory=dict)
    """Weight of a family (`stories`) or one of its levels (`stories/level-4`) in the mix; 1 where nothing is said."""
    instruction: Instruction = "none"
    """What the user turn says after the problem."""
    steps: int = Field(gt=0)
    """Optimizer steps, each on fresh rollouts."""
    prompts_per_step: int = Field(default=32, gt=0)
    """Problems a step."""
    samples: int = Field(default=8, gt=1)
    """Completions a problem; their mean reward is the baseline."""
    max_tokens: int = Field(gt=0)
    """Longest completion; a longer one is cut and counts as truncated."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the rollouts. At 1 the sampler's distribution is the one the loss is about."""
    accuracy_reward: float = Field(default=1.0, ge=0)
    """Reward for a right answer."""
    format_reward: float = Field(default=0.0, ge=0)
    """Reward for one closed thought, an answer and a clean end."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL term that holds the policy to the starting model; 0 needs no second model."""
    floor: float = Field(default=0.25, ge=0, le=1)
    """Smallest accuracy on the probe to start from. Of two half-trained teachers of width 64, one at 19% fell further
    within 60 steps and one at 52% rose to 67% (docs/rl.md)."""
    probe: int = Field(default=128, gt=0)
    """Problems of the mix sampled once each before the first step."""
    tokens_per_pass: int = Field(default=8192, gt=0)
    """Padded tokens of one forward and backward pass: bounds memory, changes nothing else."""
    slots: int = Field(default=256, gt=0)
    """Completions sampled at a time."""
    cache_gb: float = Field(default=CACHE_GB, gt=0.0)
    """Memory for the engine's cache, in 10^9 bytes; what does not fit at once waits."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """`adamw`: AdamW for all. `muon`: Muon for the matrices, AdamW for the rest."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak rate of whatever AdamW trains."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the rate rises from zero."""
    save_every: int = Field(default=10, ge=0)
    """Steps between resumable states; 0 keeps none, so that a killed step starts again."""

    @property
    def params(self) -> Params:
        """How the policy is sampled."""
        return Params(max_tokens=self.max_tokens, temperature=self.temperature)


def rl(
    model: Path,
    problems: Path,
    out: Path,
    config: RlConfig,
    *,
    loader: ModelLoader,
    judge: Judge,
    seed: int,
    progress: Progress,
) -> Report:
    """Train `model` on its own judged answers into the checkpoint folder `out`; continues what it finds there."""
    import torch

    chosen = select(read_problems(problems), config.select, problems)
    plan = plan_prompts(chosen, config.steps, config.prompts_per_step, config.focus, seed)
    judge.prepare(chosen)
    loaded = loader.load(model, device="cuda" if torch.cuda.is_available() else "cpu", backends=config.backends)
    rollouts = _rollouts(loaded, chosen, out, config, loader, judge, seed)
    probed = _probe(rollouts, chosen, model, config, seed)
    states = States(out)
    if not (out / LINEAGE).is_file():  # it is written last: with it, only cleaning up is left
        reference = None
        if config.beta:
            reference = loader.load(model, device=str(loaded.model.device), backends=config.backends).model
        _train(loaded, reference, rollouts, chosen, plan, out, config, states, seed, progress)
        data = read_manifest(problems).fingerprint if (problems / MANIFEST).is_file() else file_fingerprint(problems)
        name = out.name.removesuffix(".partial")
        lineage = Lineage(name=name, stage="rl", parent=read_lineage(model), data=data)
        save_checkpoint(loaded.model, loaded.tokenizer, out, lineage)
    states.clear()
    return _report(chosen, probed, config, read_jsonl(out / CURVE, RlPoint))


def _rollouts(
    loaded: LoadedModel,
    problems: Sequence[Problem],
    out: Path,
    config: RlConfig,
    loader: ModelLoader,
    judge: Judge,
    seed: int,
) -> Rollouts:
    from distill.sampling.engine import Engine, room

    chat, ask = Chat(loaded.tokenizer), asking(config.instruction)
    capacity = max(len(chat.prompt_ids(ask(problem))) for problem in problems) + config.max_tokens
    decoder = loader.decoder(loaded.model)
    rows = min(config.slots, config.prompts_per_step * config.samples)
    size = room(decoder, capacity=capacity, rows=rows, cache_gb=config.cache_gb)
    engine = Engine(decoder, chat, slots=size.slots, capacity=capacity, blocks=size.blocks, device=loaded.model.device)
    return Rollouts(engine, chat, judge, ask, config.params, out.name.removesuffix(".partial"), seed)


def _probe(rollouts: Rollouts, problems: Sequence[Problem], model: Path, config: RlConfig, seed: int) -> float:
    """Accuracy before the first step. Raises UserError below the floor."""
    (asked,) = plan_prompts(problems, 1, config.probe, config.focus, seed + 1)
    rolled = rollouts.roll([problems[index] for index in asked], 1, PROBE_ROUND)
    measured = accuracy(rolled)
    if measured < config.floor:
        right = sum(row.correct for row in rolled)
        raise UserError(
            f"{model}: {measured:.1%} of the probe right ({right} of {len(rolled)} samples at temperature "
            f"{config.temperature:g}), floor is {config.floor:.1%}: rl learns only from what is sometimes right; "
            "train the model longer with sft first, select easier levels, or lower floor"
        )
    return measured


def _train(
    loaded: LoadedModel,
    reference: Any,
    rollouts: Rollouts,
    problems: Sequence[Problem],
    plan: list[list[int]],
    out: Path,
    config: RlConfig,
    states: States,
    seed: int,
    progress: Progress,
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig

    from distill.train.grpo_trainer import LeanGrpo
    from distill.train.lean import Feed, arguments, optimizers

    extras = Extras(loaded.model, config, 0.0, loaded.folder)
    begun, folder = states.newest() or (0, None)
    feed = Feed(
        plan, begun, lambda asked: [{"prompt": problems[row].id} for row in asked for _ in range(config.samples)]
    )
    settings = GRPOConfig(
        **arguments(states.folder, config, config.steps, 1, seed),
        per_device_train_batch_size=config.prompts_per_step * config.samples,
        steps_per_generation=1,
        num_generations=config.samples,
        max_completion_length=config.max_tokens,
        temperature=config.temperature,
        reward_weights=[config.accuracy_reward, config.format_reward],
        loss_type="dapo",
        disable_dropout=True,
        beta=0.0,
    )
    with progress.task("rl", config.steps, "steps") as task:
        task.advance(begun)
        trainer = LeanGrpo(
            rollouts=rollouts,
            problems=problems,
            states=states,
            feed=feed,
            curve=Curve(out, RlPoint, begun),
            extras=extras,
            task=task,
            pass_tokens=config.tokens_per_pass,
            beta=config.beta,
            reference=reference,
            model=loaded.model,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [problem.id for problem in problems]}),
            processing_class=loaded.tokenizer,
            optimizers=optimizers(loaded.model, config, config.steps),
        )
        trainer.curve.begin()
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        del trainer.model.forward  # TRL's head belongs to the trainer, not to the model


def _report(problems: Sequence[Problem], probed: float, config: RlConfig, curve: list[RlPoint]) -> Report:
    last = curve[-1]
    tail = curve[-max(1, len(curve) // 10) :]
    after = sum(point.accuracy for point in tail) / len(tail)
    counts: dict[str, int | float] = {
        "problems": len(problems),
        "steps": last.step,
        "completions": last.step * config.prompts_per_step * config.samples,
        "accuracy_before": round(probed, 4),
        "accuracy_last_tenth": round(after, 4),
    }
    line = (
        f"{last.step:,} steps, {last.tokens:,} tokens sampled, {last.seconds / last.step:.2f} s a step, "
        f"accuracy {probed:.1%} before, {after:.1%} over the last {len(tail)} steps"
    )
    lines = [line]
    load = next((point.experts for point in reversed(curve) if point.experts is not None), None)
    if load is not None:
        counts |= load.counts
        lines.append(load.line)
    return Report(counts=counts, tokens=last.tokens, lines=tuple(lines))
