"""On-policy: a student speaks, its teacher says at every token what it would have said, the student moves there.

Generalized knowledge distillation (GKD, arXiv 2306.13649, algorithm 1): with share `on_policy` of the steps on
the student's own turns, the others on rows of a data set; the divergence is a table's choice, taken over the
teacher's `top_k` likeliest tokens and its tail at every position of the turn, not over the sampled token alone
(Thinking Machines' estimator, which is `kind = "sampled-reverse-kl"`). No gradient flows through sampling.

It works where the two think alike (arXiv 2604.13016): what they agree on is measured before the first step,
which is refused below `compatible`, and told every step. That paper's metrics are taken here over the 16
likeliest tokens: the overlap ratio, the mass of the shared tokens under each, and the entropy gap.
Does not learn from verdicts (that is rl) and needs one tokenizer for both. One process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.checkpoints import LINEAGE, Lineage, read_lineage, save_checkpoint
from distill.content import file_fingerprint
from distill.errors import UserError
from distill.harvest.draw import Judge
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Example, Message, Problem
from distill.runs import MANIFEST, Report, read_manifest
from distill.sampling.protocols import LoadedModel, ModelLoader, Sampler
from distill.selection import Ask, asking, read_problems, select
from distill.train.auxiliary import Extras
from distill.train.batches import Curriculum, plan_steps
from distill.train.curve import CURVE, Agreement, Curve, OnPolicyPoint
from distill.train.logs import check_logs
from distill.train.mix import plan_prompts
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.outcome import Kept, Outcome, read_outcome, write_outcome
from distill.train.preflight.model import check_model
from distill.train.resume import States
from distill.train.rows import EXAMPLES, Rows, check_decontaminated, read_rows
from distill.train.tokens import check_same_row, check_same_tokens, size, vocabulary_of

if TYPE_CHECKING:
    from distill.train.loop import Loop
    from distill.train.turns import Spoken, Student, Turn

PROBE_STEP = 1_000_000
"""The probe's place among the steps, as far as seeds go: no step has it."""


@dataclass(frozen=True, slots=True)
class Taught:
    """Who corrects: a sampler, the chat that renders for it, and the longest sequence it takes."""

    sampler: Sampler
    chat: Chat
    context: int


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run needs at every step."""

    config: OnPolicyConfig
    teacher: Taught
    student: "Student"
    problems: list[Problem]
    asked: list[list[int]]
    """Problems of each step on turns, in order."""
    rows: Rows | None
    batches: list[list[int]]
    """Rows of each step on data, in order."""
    vocabulary: int

    def turns(self, step: int) -> "tuple[Spoken | None, list[Turn]]":
        """What is learned from in a step counted from 0, corrected."""
        before = int(step * self.config.on_policy)
        if int((step + 1) * self.config.on_policy) > before:
            return self.speak([self.problems[place] for place in self.asked[before]], step)
        assert self.rows is not None, "checked with the table"
        places = self.batches[step - before]
        rows = [(self.rows.token_ids[place], self.rows.labels[place]) for place in places]
        return None, self.corrected(rows, step)

    def speak(self, problems: Sequence[Problem], step: int) -> "tuple[Spoken, list[Turn]]":
        """The student's turns on these problems, corrected."""
        spoken = self.student.speak(problems, self.config.samples, step)
        return spoken, self.corrected(spoken.rows, step)

    def corrected(self, rows: Sequence[tuple[list[int], list[int]]], step: int) -> "list[Turn]":
        from distill.train.turns import corrected

        where = f"step {step}, {self.teacher.sampler.identity.name}"
        return corrected(rows, self.teacher.sampler, self.config.top_k, self.vocabulary, where)


def on_policy(
    model: Path,
    out: Path,
    config: OnPolicyConfig,
    *,
    problems: Path | None,
    data: Path | None,
    teacher: Taught,
    loader: ModelLoader,
    judge: Judge | None,
    seed: int,
    progress: Progress,
) -> Report:
    """Train the student `model` on its corrected turns into the checkpoint folder `out`; continues what it finds."""
    import torch

    from distill.train.loop import Loop

    check_logs(config.log)
    source = _source(problems, data, config)
    loaded = loader.load(model, device="cuda" if torch.cuda.is_available() else "cpu", backends=config.backends)
    check_model(loaded)
    run = _prepare(loaded, out, config, problems, data, teacher, loader, judge, seed)
    states = States(out, keep=config.keep)
    extras = Extras(loaded.model, config, 0.0, loaded.folder)
    pass_tokens = config.tokens_per_pass
    loop = Loop(
        loaded,
        config,
        config.objective,
        steps=config.steps,
        pass_tokens=pass_tokens,
        states=states,
        extras=extras,
        seed=seed,
    )
    before = _probe(run, loop, model, seed)
    if not (out / LINEAGE).is_file():  # it is written last: with it, only cleaning up is left
        kept = _train(run, loop, out, progress)
        write_outcome(out, Outcome(kept=kept))
        lineage = Lineage(
            name=out.name.removesuffix(".partial"), stage="on-policy", parent=read_lineage(model), data=source
        )
        save_checkpoint(loaded.model, loaded.tokenizer, out, lineage)
    states.clear()
    return _report(run, before, read_jsonl(out / CURVE, OnPolicyPoint), read_outcome(out))


def _source(problems: Path | None, data: Path | None, config: OnPolicyConfig) -> str:
    """Fingerprint of what is asked and read."""
    if data is not None:
        return check_decontaminated(data, config.allow_contaminated)
    assert problems is not None, "checked with the table"
    return read_manifest(problems).fingerprint if (problems / MANIFEST).is_file() else file_fingerprint(problems)


def _prepare(
    loaded: LoadedModel,
    out: Path,
    config: OnPolicyConfig,
    problems: Path | None,
    data: Path | None,
    teacher: Taught,
    loader: ModelLoader,
    judge: Judge | None,
    seed: int,
) -> _Run:
    """Everything that may be refused before anything is sampled. Raises UserError."""
    from distill.sampling.engine import Engine, room
    from distill.train.turns import Student

    chat = Chat(loaded.tokenizer)
    vocabulary = vocabulary_of(chat)
    check_same_tokens(vocabulary_of(teacher.chat), vocabulary, f"teacher {teacher.sampler.identity.name}")
    chosen, ask = _questions(problems, data, config)
    if judge is not None:
        judge.prepare(chosen)
    first = ask(chosen[0])
    check_same_row(teacher.chat.prompt_ids(first), chat.prompt_ids(first), f"prompt of {chosen[0].id}")
    capacity = max(len(chat.prompt_ids(ask(problem))) for problem in chosen) + config.max_tokens
    rows = None
    if data is not None and config.on_policy < 1:
        rows = read_rows(data, chat, size(vocabulary), config.max_length, "refuse")
    longest = max([capacity, *(rows.lengths if rows is not None else ())])
    if longest > teacher.context:
        raise UserError(
            f"teacher {teacher.sampler.identity.name} takes {teacher.context} tokens; the longest prompt with "
            f"max_tokens = {config.max_tokens}, or row of data, has {longest}: lower max_tokens, or select shorter ones"
        )
    decoder = loader.decoder(loaded.model)
    at_once = min(config.slots, config.prompts_per_step * config.samples)
    place = room(decoder, capacity=capacity, rows=at_once, cache_gb=config.cache_gb)
    device = loaded.model.device
    engine = Engine(decoder, chat, slots=place.slots, capacity=capacity, blocks=place.blocks, device=device)
    own = int(config.steps * config.on_policy)
    batches: list[list[int]] = []
    if rows is not None:
        others = config.steps - own
        plan = plan_steps(
            rows.lengths,
            Curriculum(),
            tokens_per_step=config.tokens_per_batch,
            steps=others,
            tokens=None,
            parts=1,
            seed=seed,
        )
        batches = [part for step in plan.steps for part in step]
    return _Run(
        config=config,
        teacher=teacher,
        student=Student(engine, chat, judge, ask, config.params, out.name.removesuffix(".partial"), seed),
        problems=chosen,
        asked=plan_prompts(chosen, own, config.prompts_per_step, config.focus, seed),
        rows=rows,
        batches=batches,
        vocabulary=size(vocabulary),
    )


def _questions(problems: Path | None, data: Path | None, config: OnPolicyConfig) -> tuple[list[Problem], Ask]:
    """What the student is asked: problems, or whatever stands before the last turn of each example."""
    if problems is not None:
        return select(read_problems(problems), config.select, problems), asking(config.instruction)
    assert data is not None, "checked with the table"
    examples = read_jsonl(data / EXAMPLES if data.is_dir() else data, Example)
    before: dict[str, tuple[Message, ...]] = {one.id: one.messages[:-1] for one in examples}
    asked = [
        Problem(id=name, kind="open", prompt=messages[-1].content, source="data", split="train")
        for name, messages in before.items()
    ]
    return asked, lambda problem: before[problem.id]


def _probe(run: _Run, loop: "Loop", model: Path, seed: int) -> Agreement:
    """How near the two are before the first step. Raises UserError where they do not think alike."""
    config = run.config
    (asked,) = plan_prompts(run.problems, 1, config.probe, config.focus, seed + 1)
    _, turns = run.speak([run.problems[place] for place in asked], PROBE_STEP)
    loop.look(turns)
    found = loop.tally.take()
    if min(found.teacher_mass, found.student_mass) < config.compatible:
        raise UserError(
            f"{model}: on {len(turns)} of its own turns the tokens likeliest to student and teacher have "
            f"{found.student_mass:.1%} of the student's mass and {found.teacher_mass:.1%} of the teacher's, expected "
            f"{config.compatible:.1%} of each: they do not think alike, and what one corrects the other cannot follow; "
            "train the student on the teacher's traces with sft first, ask what the teacher was trained on, or lower "
            "compatible"
        )
    return found


def _train(run: _Run, loop: "Loop", out: Path, progress: Progress) -> Kept | None:
    """All steps; the state whose weights are left in the model, where it is not the last."""
    config = run.config
    begun = loop.resume()
    curve = Curve(out, OnPolicyPoint, begun, config.log)
    with progress.task("on-policy", config.steps, "steps") as task:
        task.advance(begun)
        curve.begin()
        for step in range(begun, config.steps):
            spoken, turns = run.turns(step)
            rate = loop.schedule.get_last_lr()[0]
            loss = loop.step(turns, step + 1)
            agreement, beside = loop.tally.take(), loop.extras.take()
            tokens = sum(turn.positions for turn in turns)
            last = curve.last
            point = OnPolicyPoint(
                step=step + 1,
                source="rollouts" if spoken is not None else "data",
                tokens=tokens + (last.tokens if last is not None else 0),
                loss=loss,
                agreement=agreement,
                lr=rate,
                seconds=curve.seconds(),
                balance_loss=beside["balance_loss"],
                experts=beside["experts"],
                **_told(spoken, agreement, tokens, config),
            )
            curve.add(point)
            facts = f"{config.objective.kind} {loss:.3f}  overlap {agreement.overlap:.1%}"
            task.advance(tokens=tokens, facts=facts)
            closing = config.keep_best is not None and step + 1 == config.steps
            if closing or (config.save_every and (step + 1) % config.save_every == 0):
                curve.sync()
                loop.save(step + 1, getattr(point, config.keep_best) if config.keep_best else None)
    curve.close()
    return loop.take_best() if config.final == "best" else None


def _told(spoken: "Spoken | None", agreement: Agreement, tokens: int, config: OnPolicyConfig) -> dict[str, Any]:
    """What a step on turns says of them."""
    if spoken is None:
        return {}
    gap = spoken.logprob / tokens + agreement.cross_entropy if config.temperature == 1.0 else None
    return {
        "accuracy": spoken.accuracy,
        "by_level": spoken.by_level,
        "length": spoken.length,
        "truncated": spoken.truncated,
        "kl_sampler_trainer": gap,
    }


def _report(run: _Run, before: Agreement, curve: Sequence[OnPolicyPoint], outcome: Outcome) -> Report:
    last = curve[-1]
    tail = curve[-max(1, len(curve) // 10) :]
    overlap = sum(point.agreement.overlap for point in tail) / len(tail)
    divergence = sum(point.agreement.divergence for point in tail) / len(tail)
    counts: dict[str, int | float] = {
        "steps": last.step,
        "overlap_before": round(before.overlap, 4),
        "overlap_last_tenth": round(overlap, 4),
        "student_mass_before": round(before.student_mass, 4),
        "teacher_mass_before": round(before.teacher_mass, 4),
        "divergence_before": round(before.divergence, 4),
        "divergence_last_tenth": round(divergence, 4),
    }
    lines = [
        f"{last.step:,} steps, {last.tokens:,} tokens corrected by {run.teacher.sampler.identity.name}, "
        f"{last.seconds / last.step:.2f} s a step",
        f"{run.config.objective.kind} {before.divergence:.4f} before, {divergence:.4f} over the last {len(tail)} "
        f"steps; likeliest tokens shared {before.overlap:.1%}, then {overlap:.1%}",
        f"before: {before.student_mass:.1%} of the student's mass and {before.teacher_mass:.1%} of the teacher's on "
        f"them, entropy gap {before.entropy_gap:.3f}",
    ]
    if outcome.kept is not None:
        counts["final_step"] = outcome.kept.step
        lines.append(outcome.kept.line(last.step))
    right = list(_accuracies(curve))
    if right:
        tenth = max(1, len(right) // 10)
        first, final = sum(right[:tenth]) / tenth, sum(right[-tenth:]) / tenth
        counts |= {"accuracy_first_tenth": round(first, 4), "accuracy_last_tenth": round(final, 4)}
        lines.append(f"right turns: {first:.1%} over the first {tenth} steps on turns, {final:.1%} over the last")
    return Report(counts=counts, tokens=last.tokens, lines=tuple(lines))


def _accuracies(curve: Sequence[OnPolicyPoint]) -> Iterator[float]:
    return (point.accuracy for point in curve if point.accuracy is not None)
