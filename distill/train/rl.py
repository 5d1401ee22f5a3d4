"""Rl: a model learns from its own answers, judged.

Group-relative policy optimization (DeepSeekMath, arXiv 2402.03300) and its variants through TRL's
GRPOTrainer, rollouts through our engine or a server, rewards from the one judge. It cannot lift what is
never right, so it measures first and refuses below a floor. Every level of every family
stays in the mix, and a guard stops the run when one of them collapses. Does not learn from traces of others
(that is sft) nor run on more than one process.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
from distill.train.collapse import Guard, GuardConfig
from distill.train.curve import CURVE, Curve, RlLevel, RlPoint
from distill.train.good import Good
from distill.train.logs import check_logs
from distill.train.mix import plan_prompts
from distill.train.outcome import Kept, Outcome, read_outcome, write_outcome
from distill.train.preflight.model import check_model
from distill.train.resume import States
from distill.train.rewards import Rewards, RewardsConfig
from distill.train.rollouts import Roller, Rollouts, accuracy, by_level, engine_over
from distill.train.schedule import TrainConfig
from distill.train.served import RolloutsConfig, Served
from distill.train.variants import VARIANTS, Loss

PROBE_ROUND = 1_000_000
"""The probe's place among the steps, as far as seeds go: no step has it."""
IMPORTANCE_CAP = 2.0
"""Yao et al. 2025 truncate at 2 (fengyao.notion.site/off-policy-rl)."""
MOVED = {"accuracy_reward": "accuracy", "format_reward": "format"}
"""Former keys, and what they are called in the table `rewards`."""


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
    """Steps, each on fresh rollouts, with `updates` optimizer updates."""
    prompts_per_step: int = Field(default=32, gt=0)
    """Problems a step."""
    samples: int = Field(default=8, gt=1)
    """Completions a problem; their mean reward is the baseline."""
    max_tokens: int = Field(gt=0)
    """Longest completion; a longer one is cut and counts as truncated."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the rollouts. At 1 the sampler's distribution is the one the loss is about."""
    rewards: RewardsConfig = RewardsConfig()
    """What a completion is worth: the weight of each reward."""
    loss: Loss = "dapo"
    """`grpo`: mean over a completion's tokens, then over completions. `dapo`: mean over tokens, clip-higher. `dr-grpo`:
    a constant instead of lengths, no standard deviation. `gspo`: one ratio a completion (docs/rl.md)."""
    std: bool | None = None
    """Divide advantages by their group's standard deviation; None: as the loss's paper does."""
    clip_low: float | None = Field(default=None, gt=0, lt=1)
    """How far a ratio may fall under 1 before it is clipped; None: as the loss's paper says."""
    clip_high: float | None = Field(default=None, gt=0)
    """How far it may rise over 1 (DAPO's clip-higher: 0.28); None: as the loss's paper says."""
    updates: int = Field(default=1, gt=0)
    """Optimizer updates on each step's rollouts, at one learning rate. With 1 every ratio is 1: nothing is clipped."""
    importance_cap: float | None = Field(default=None, ge=0)
    """Largest weight by which a token is corrected for a sampler that is not the trainer's policy; 0 corrects nothing.
    None: 2 with weights = "int8", `rollouts` or bf16, at temperature 1; else 0, as the two differ by rounding."""
    weights: Literal["exact", "int8"] = "exact"
    """int8: our engine samples with rounded weights; lossy, and corrected by importance weights."""
    rollouts: RolloutsConfig | None = None
    """Servers that sample instead of our engine."""
    guard: GuardConfig = GuardConfig()
    """When a run has collapsed and stops."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL term that holds the policy to the starting model; 0 needs no second model. Its estimator is k3
    times the ratio, whose gradient is unbiased (DeepSeek-V3.2, arXiv 2512.02556, section 3.1)."""
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
    keep_best: Literal["reward", "accuracy"] | None = None
    """Of the states saved the one whose step had the highest, before its update, is kept too."""

    @model_validator(mode="before")
    @classmethod
    def _former_keys(cls, table: Any) -> Any:
        for key, name in MOVED.items():
            if isinstance(table, dict) and key in table:
                raise ValueError(
                    f"{key}: now `{name}` of the table rewards, as in rewards = {{ {name} = {table[key]} }}"
                )
        return table

    @model_validator(mode="after")
    def _rollouts_fit(self) -> Self:
        if self.importance_cap and self.temperature != 1.0:
            raise ValueError(
                "importance_cap: needs temperature = 1; log-probabilities of samples are of the unmodified distribution"
            )
        if self.rollouts is not None and self.weights == "int8":
            raise ValueError("weights: is our engine's; with rollouts the servers decide how they compute")
        return self

    @property
    def params(self) -> Params:
        """How the policy is sampled."""
        return Params(max_tokens=self.max_tokens, temperature=self.temperature)

    @property
    def correction(self) -> float:
        """Largest importance weight of this run; 0 when nothing is corrected."""
        if self.importance_cap is not None:
            return self.importance_cap
        apart = self.weights == "int8" or self.rollouts is not None or self.bf16
        return IMPORTANCE_CAP if apart and self.temperature == 1.0 else 0.0


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

    check_logs(config.log)
    chosen = select(read_problems(problems), config.select, problems)
    plan = plan_prompts(chosen, config.steps, config.prompts_per_step, config.focus, seed)
    judge.prepare(chosen)
    loaded = loader.load(model, device="cuda" if torch.cuda.is_available() else "cpu", backends=config.backends)
    check_model(loaded)
    states = States(out, keep=config.keep)
    with _rollouts(loaded, chosen, out, config, loader, judge, seed) as rollouts:
        probed, levels = _probe(rollouts, chosen, model, config, seed)
        if not (out / LINEAGE).is_file():  # it is written last: with it, only cleaning up is left
            reference = None
            if config.beta:
                reference = loader.load(model, device=str(loaded.model.device), backends=config.backends).model
            good = Good(out, loaded.model, loaded.tokenizer, _lineage(out, model, problems))
            kept = _train(loaded, reference, rollouts, chosen, plan, levels, out, config, states, good, seed, progress)
            write_outcome(out, Outcome(kept=kept))
            good.clear()
            save_checkpoint(loaded.model, loaded.tokenizer, out, good.lineage)
    states.clear()
    return _report(chosen, probed, config, read_jsonl(out / CURVE, RlPoint), read_outcome(out))


def _name(out: Path) -> str:
    return out.name.removesuffix(".partial")


def _lineage(out: Path, model: Path, problems: Path) -> Lineage:
    data = read_manifest(problems).fingerprint if (problems / MANIFEST).is_file() else file_fingerprint(problems)
    return Lineage(name=_name(out), stage="rl", parent=read_lineage(model), data=data)


@contextmanager
def _rollouts(
    loaded: LoadedModel,
    problems: Sequence[Problem],
    out: Path,
    config: RlConfig,
    loader: ModelLoader,
    judge: Judge,
    seed: int,
) -> Iterator[Rollouts]:
    chat, ask = Chat(loaded.tokenizer), asking(config.instruction)
    served = None
    if config.rollouts is not None:
        served = Served(config.rollouts, loaded.model, loaded.tokenizer, out, [chat.end_id])
    try:
        with Rewards(config.rewards, config.max_tokens) as rewards:
            speaker: Roller = served or engine_over(
                loaded.model,
                chat,
                ask,
                problems,
                loader=loader,
                max_tokens=config.max_tokens,
                rows=min(config.slots, config.prompts_per_step * config.samples),
                cache_gb=config.cache_gb,
                weights=config.weights,
            )
            yield Rollouts(speaker, chat, judge, rewards, ask, config.params, _name(out), seed)
    finally:
        if served is not None:
            served.close()


def _probe(
    rollouts: Rollouts, problems: Sequence[Problem], model: Path, config: RlConfig, seed: int
) -> tuple[float, dict[str, RlLevel]]:
    """Accuracy before the first step, and what was seen of each level. Raises UserError below the floor."""
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
    return measured, by_level(rolled, 1)


def _train(
    loaded: LoadedModel,
    reference: Any,
    rollouts: Rollouts,
    problems: Sequence[Problem],
    plan: list[list[int]],
    levels: Mapping[str, RlLevel],
    out: Path,
    config: RlConfig,
    states: States,
    good: Good,
    seed: int,
    progress: Progress,
) -> Kept | None:
    from datasets import Dataset
    from trl import GRPOConfig

    from distill.train.grpo_trainer import CollapsedError, LeanGrpo
    from distill.train.lean import Feed, arguments, optimizers

    extras = Extras(loaded.model, config, 0.0, loaded.folder)
    begun, folder = states.newest() or (0, None)
    feed = Feed(
        plan, begun, lambda asked: [{"prompt": problems[row].id} for row in asked for _ in range(config.samples)]
    )
    variant = VARIANTS[config.loss]
    std = variant.std if config.std is None else config.std
    curve = Curve(out, RlPoint, begun, config.log)
    settings = GRPOConfig(
        **arguments(states.folder, config, config.steps, 1, seed),
        per_device_train_batch_size=config.prompts_per_step * config.samples,
        steps_per_generation=1,
        num_generations=config.samples,
        max_completion_length=config.max_tokens,
        temperature=config.temperature,
        reward_weights=list(config.rewards.weights.values()),
        loss_type=variant.loss_type,
        importance_sampling_level=variant.level,
        scale_rewards="group" if std else "none",
        epsilon=config.clip_low or variant.clip_low,
        epsilon_high=config.clip_high or variant.clip_high,
        use_bias_correction_kl=True,
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
            curve=curve,
            extras=extras,
            task=task,
            guard=Guard(config.guard, levels, curve.rows),
            variant=variant,
            pass_tokens=config.tokens_per_pass,
            updates=config.updates,
            importance_cap=config.correction,
            beta=config.beta,
            reference=reference,
            keep_good=good.keep,
            model=loaded.model,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [problem.id for problem in problems]}),
            processing_class=loaded.tokenizer,
            optimizers=optimizers(loaded.model, config, config.steps),
        )
        trainer.curve.begin()
        try:
            trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        except CollapsedError as collapse:
            raise UserError(f"{out}: {collapse}: training has collapsed and stops; {good.hand_out()}") from None
        curve.close()
        kept = trainer.take_best() if config.final == "best" else None
        del trainer.model.forward  # TRL's head belongs to the trainer, not to the model
    return kept


def _report(
    problems: Sequence[Problem], probed: float, config: RlConfig, curve: list[RlPoint], outcome: Outcome
) -> Report:
    last = curve[-1]
    tail = curve[-max(1, len(curve) // 10) :]
    after = sum(point.accuracy for point in tail) / len(tail)
    told = {name: sum(point.rewards[name] for point in tail) / len(tail) for name in last.rewards}
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
    if len(told) > 1:
        lines.append("rewards over these: " + ", ".join(f"{name} {mean:.3f}" for name, mean in told.items()))
    if outcome.kept is not None:
        counts["final_step"] = outcome.kept.step
        lines.append(outcome.kept.line(last.step))
    load = next((point.experts for point in reversed(curve) if point.experts is not None), None)
    if load is not None:
        counts |= load.counts
        lines.append(load.line)
    return Report(counts=counts, tokens=last.tokens, lines=tuple(lines))
