"""Curate: turn judged traces into training examples.

Two passes over the ledgers. The first looks at every text once and keeps a light row of it;
steps over the whole set work on rows; the second reads the kept texts by their place and
writes them. Memory grows with the number of traces, not with their length.
Every trace's way through the steps is written down. Same input, same bytes.
Does not judge correctness (the judge has done so) and does not tokenize for training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distill.content import file_fingerprint
from distill.curate.card import MATCHES, Told, write_card
from distill.curate.config import CurateConfig
from distill.curate.content import content_filters
from distill.curate.content.finding import Text
from distill.curate.curriculum import ordered
from distill.curate.decontaminate import UNCHECKED, HeldOut, Match
from distill.curate.divergence import divergences
from distill.curate.filters import Clean, Filter, Seen, likely_enough, short_enough, trainable, verified
from distill.curate.held_out import Exams
from distill.curate.history import HISTORY, Count, History, by_count
from distill.curate.looking import Said, looked
from distill.curate.measure import light_measures, read_measures
from distill.curate.policies import Choice, Given, apply, names, read_scores, relabels, sketched
from distill.curate.policies.config import Divergence
from distill.curate.questions import Questions
from distill.curate.reading import Reader
from distill.curate.row import Row
from distill.curate.steps import repeats, thin
from distill.curate.terms import Source, gate
from distill.curate.writing import EXAMPLES, Texts, write_examples, write_orders
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Problem
from distill.runs import Report
from distill.selection import iter_problems


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a curate step reads, by the keys of its table."""

    traces: Sequence[Path]
    problems: Sequence[Path]
    against: Sequence[Path] = ()
    benchmarks: Exams | None = None
    measures: Sequence[Path] = ()
    scores: Path | None = None
    harm_scores: Path | None = None


def curate(
    inputs: Inputs,
    out: Path,
    config: CurateConfig,
    *,
    seed: int,
    progress: Progress,
    chat: Chat | None = None,
    workers: int = 1,
) -> Report:
    """Write examples, every trace's history, the contamination matches and a card into `out`.

    `chat` renders with the tokenizer the config names; nothing depends on `workers`, the processes that
    look at content and for near duplicates. Raises UserError when nothing is kept, or a source's terms do not allow it.
    """
    if (chat is None) != (config.tokenizer is None):
        raise UserError("curate: a chat is needed exactly when the config names a tokenizer")
    sources = gate(inputs.traces, config.terms, config.accept_terms)
    held_out, counted = _held_out(inputs, config)
    clean = Clean(held_out)
    early, late = _filters(config, clean, chat)
    last = [*(() if config.max_per_problem is None else ("at-most",)), *names(config.policies)]
    looks = () if config.content == "off" else content_filters(config.content)
    before = [step.name for step in (*early, *looks)]
    history = History([*before, *repeats(config), *(step.name for step in late), *last])
    if config.max_tokens is not None:
        history.measured["short-enough"] = "tokens", config.max_tokens
    if config.max_perplexity is not None:
        history.measured["likely-enough"] = "perplexity", config.max_perplexity
    with (
        closing(Questions(inputs.problems, progress)) as questions,
        closing(Texts(inputs.traces, questions, config)) as texts,
    ):
        reading = Reader(
            questions,
            config.thought,
            early=early,
            content=_content(inputs, config, workers),
            late=late,
            measures=[light_measures(folder) for folder in inputs.measures],
            sketched=sketched(config.policies),
            voiced=relabels(config.policies),
        ).read(inputs.traces, progress)
        thin(reading, history, clean, texts, config, scratch=out, workers=workers, progress=progress)
        given = Given(
            seed,
            reading.rows,
            in_process=config.in_process == "keep",
            scores=read_scores(inputs.scores) if inputs.scores is not None else {},
            divergences=_divergences(inputs.measures, config),
        )
        choice = apply(config.policies, history, given)
        kept = ordered(history.alive(reading.rows), config.order, config.first, seed)
        counts = history.counts(len(reading.rows))
        if not kept:
            raise UserError(_nothing(counts))
        ids = write_examples(out, kept, texts, progress)
        write_orders(out, kept, config, seed)
        write_jsonl(out / HISTORY, history.fates(reading.rows, questions.ids, ids))
        matches: Counter[str] = Counter()
        write_jsonl(out / MATCHES, _matches(reading.rows, history, held_out, texts, matches))
    mark = _mark(config, counted, inputs.benchmarks, counts)
    checksum = file_fingerprint(out / EXAMPLES)
    harvests, asked = ([path.name for path in paths] for paths in (inputs.traces, inputs.problems))
    told = Told(config, seed, harvests, asked, sources, reading.sources, counts, kept, mark, matches, checksum)
    write_card(out, told)
    return _report(counts, len(kept), mark, sources, checksum, choice)


def _held_out(inputs: Inputs, config: CurateConfig) -> tuple[HeldOut, dict[str, int]]:
    """Test-split problems of every place named, and how many of each source; a place without any is a mistake."""
    counted: Counter[str] = Counter()

    def test() -> Iterator[Problem]:
        for path in inputs.against:
            before = counted.total()
            for problem in iter_problems(path):
                if problem.split == "test":
                    counted[problem.source] += 1
                    yield problem
            if counted.total() == before:
                raise UserError(f"{path}: holds no problem of split 'test', so nothing can be checked against it")
        for problem in inputs.benchmarks.problems if inputs.benchmarks is not None else ():
            counted[problem.source] += 1
            yield problem

    held_out = HeldOut(test(), config.decontaminate, near=config.held_out_near, numbers_changed=config.numbers_changed)
    return held_out, dict(sorted(counted.items()))


def _filters(config: CurateConfig, clean: Clean, chat: Chat | None) -> tuple[list[Filter], list[Filter]]:
    """Filters of single texts in front of those of content, and behind the steps over the whole set."""
    early = [Filter("trainable", trainable)]
    if config.keep == "verified" and not config.policies:
        early.append(Filter("verified", verified(in_process=config.in_process == "keep")))
    late = [] if config.decontaminate == "none" else [Filter(clean.name, clean.look)]
    if chat is not None and config.max_tokens is not None:
        late.append(Filter("short-enough", short_enough(chat, config.instruction, config.max_tokens)))
    if config.max_perplexity is not None:
        late.append(Filter("likely-enough", likely_enough(config.max_perplexity)))
    return early, late


def _content(
    inputs: Inputs, config: CurateConfig, workers: int
) -> Callable[[Iterable[tuple[Seen, Text]]], Iterator[tuple[Seen, Said]]] | None:
    if config.content == "off":
        return None
    scores = read_scores(inputs.harm_scores) if inputs.harm_scores is not None else {}
    return partial(looked, config=config.content, scores=scores, workers=workers)


def _mark(
    config: CurateConfig, counted: dict[str, int], benchmarks: Exams | None, counts: Sequence[Count]
) -> dict[str, object] | str:
    """How held-out problems were kept away, for whoever trains on the examples."""
    if config.decontaminate == "none":
        return UNCHECKED
    (found,) = (count for count in counts if count.name == Clean.name)
    mark: dict[str, object] = {
        "against": counted,
        "method": config.decontaminate,
        "removed": found.reasons.total(),
        "flagged": found.flags.total(),
    }
    return {**mark, "not_there": list(benchmarks.missing)} if benchmarks and benchmarks.missing else mark


def _divergences(measures: Sequence[Path], config: CurateConfig) -> dict[tuple[str, str], dict[str, float]]:
    """What each policy `divergence` asks for, from the measure steps it names."""
    found = {}
    for policy in config.policies:
        if isinstance(policy, Divergence):
            student, teacher = (
                read_measures(measures[config.measures.index(name)]) for name in (policy.student, policy.teacher)
            )
            found[policy.student, policy.teacher] = divergences(student, teacher)
    return found


def _matches(
    rows: Sequence[Row], history: History, held_out: HeldOut, texts: Texts, counted: Counter[str]
) -> Iterator[Match]:
    """Every stretch a dropped or flagged row shares with a held-out problem; its text is read again for it."""
    prompts: set[int] = set()
    for row in rows:
        step, _ = history.drops.get(row.trace_id, (None, None))
        flagged = any(flag == Clean.name for flag, _ in history.flags.get(row.trace_id, ()))
        if step != Clean.name and not flagged:
            continue
        problem = texts.questions[row.problem]
        found: list[Match] = []
        shared = held_out.in_prompt(problem.prompt)
        if row.problem not in prompts:
            prompts.add(row.problem)
            found += [one.match("prompt", problem.id, None) for one in shared]
        if not any(one.drops for one in shared):  # else its traces were not looked at
            found += [one.match("trace", problem.id, row.trace_id) for one in held_out.in_trace(texts.said(row))]
        counted.update(f"{match.how} in a {match.where}{'' if match.drops else ', flagged'}" for match in found)
        yield from found


def _nothing(counts: Sequence[Count]) -> str:
    why = ", ".join(f"{reason} {count:,}" for reason, count in by_count(_reasons(counts)))
    return f"curate: none of {counts[0].before:,} traces is kept ({why or 'the harvest is empty'})"


def _reasons(counts: Sequence[Count]) -> Counter[str]:
    return sum((count.reasons for count in counts), Counter())


def _report(
    counts: Sequence[Count],
    kept: int,
    mark: dict[str, object] | str,
    sources: Sequence[Source],
    checksum: str,
    choice: Choice,
) -> Report:
    lines = [
        f"{count.name:<14} {count.before:>9,} -> {count.after:>9,}  "
        + ", ".join(
            [f"{reason} {number:,}" for reason, number in by_count(count.reasons)]
            + [f"({reason} {number:,} flagged)" for reason, number in by_count(count.flags)]
        )
        for count in counts
    ]
    steps = {
        count.name: {
            "before": count.before,
            "after": count.after,
            "reasons": dict(sorted(count.reasons.items())),
            **({"flags": dict(sorted(count.flags.items()))} if count.flags else {}),
        }
        for count in counts
    }
    return Report(
        counts={"traces": counts[0].before, "examples": kept, **dict(sorted(_reasons(counts).items()))},
        lines=(*(line.rstrip() for line in lines), *choice.lines),
        marks={
            "decontaminated": mark,
            "examples": checksum,
            "steps": steps,
            "sources": [source.model_dump(mode="json", exclude_none=True) for source in sources],
            **choice.marks,
        },
    )
