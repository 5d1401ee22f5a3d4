"""Curate: turn judged traces into training examples.

Two passes over the ledgers. The first looks at every text once and keeps a light row of it;
steps over the whole set work on rows; the second reads the kept texts by their place and
writes them. Memory grows with the number of traces, not with their length.
Every trace's way through the steps is written down. Same input, same bytes.
Does not judge correctness (the judge has done so) and does not tokenize for training.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from distill.curate.card import MATCHES, Told, write_card
from distill.curate.config import CurateConfig
from distill.curate.content.finding import Finding
from distill.curate.curriculum import ordered
from distill.curate.decontaminate import HeldOut, Match
from distill.curate.filters import Clean, Filter, likely_enough, short_enough, trainable, verified
from distill.curate.history import HISTORY, Count, History, by_count
from distill.curate.measure import light_measures
from distill.curate.questions import Questions
from distill.curate.reading import Reader, Reading
from distill.curate.row import Row
from distill.curate.writing import EXAMPLES, Texts, write_examples, write_orders
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.recipe import file_fingerprint
from distill.records import Problem
from distill.runs import Report
from distill.selection import iter_problems


def curate(
    traces: Sequence[Path],
    problems: Sequence[Path],
    against: Sequence[Path],
    out: Path,
    config: CurateConfig,
    *,
    seed: int,
    progress: Progress,
    chat: Chat | None = None,
    measures: Sequence[Path] = (),
) -> Report:
    """Write examples, every trace's history, the contamination matches and a card into `out`.

    `chat` renders with the tokenizer the config names; `measures` are the run folders it names.
    Raises UserError when nothing is kept.
    """
    if (chat is None) != (config.tokenizer is None):
        raise UserError("curate: a chat is needed exactly when the config names a tokenizer")
    held_out, counted = _held_out(against, config)
    early, late = _filters(config, held_out, chat)
    history = History([*(step.name for step in early), "distinct", *(step.name for step in late), *_last(config)])
    if config.max_tokens is not None:
        history.measured["short-enough"] = "tokens", config.max_tokens
    if config.max_perplexity is not None:
        history.measured["likely-enough"] = "perplexity", config.max_perplexity
    with closing(Questions(problems, progress)) as questions, closing(Texts(traces, questions, config)) as texts:
        light = [light_measures(folder) for folder in measures]
        reading = Reader(questions, config.thought, early=early, late=late, measures=light).read(traces, progress)
        kept = ordered(_choose(reading, history, config), config.order, config.first, seed)
        counts = history.counts(len(reading.rows))
        if not kept:
            raise UserError(_nothing(counts))
        ids = write_examples(out, kept, texts, progress)
        write_orders(out, kept, config, seed)
        write_jsonl(out / HISTORY, history.fates(reading.rows, questions.ids, ids))
        matches: Counter[str] = Counter()
        write_jsonl(out / MATCHES, _matches(reading.rows, history, held_out, texts, matches))
    removed = sum(count.reasons.total() for count in counts if count.name == "clean")
    mark: dict[str, object] = {"against": counted, "method": config.decontaminate, "removed": removed}
    checksum = file_fingerprint(out / EXAMPLES)
    harvests, asked = ([path.name for path in paths] for paths in (traces, problems))
    write_card(out, Told(config, seed, harvests, asked, reading.sources, counts, kept, mark, matches, checksum))
    return _report(counts, len(kept), mark, checksum)


def _held_out(against: Sequence[Path], config: CurateConfig) -> tuple[HeldOut, dict[str, int]]:
    """Test-split problems of every place named, and how many of each source; a place without any is a mistake."""
    counted: Counter[str] = Counter()

    def test() -> Iterator[Problem]:
        for path in against:
            before = counted.total()
            for problem in iter_problems(path):
                if problem.split == "test":
                    counted[problem.source] += 1
                    yield problem
            if counted.total() == before:
                raise UserError(f"{path}: holds no problem of split 'test', so nothing can be checked against it")

    return HeldOut(test(), config.decontaminate), dict(sorted(counted.items()))


def _filters(config: CurateConfig, held_out: HeldOut, chat: Chat | None) -> tuple[list[Filter], list[Filter]]:
    """Filters of single texts in front of the steps over the whole set, and behind them."""
    early = [Filter("trainable", trainable)]
    if config.keep == "verified":
        early.append(Filter("verified", verified(in_process=config.in_process == "keep")))
    late = [Filter("clean", Clean(held_out).look)]
    if chat is not None and config.max_tokens is not None:
        late.append(Filter("short-enough", short_enough(chat, config.instruction, config.max_tokens)))
    if config.max_perplexity is not None:
        late.append(Filter("likely-enough", likely_enough(config.max_perplexity)))
    return early, late


def _last(config: CurateConfig) -> list[str]:
    return [] if config.max_per_problem is None else ["at-most"]


def _choose(reading: Reading, history: History, config: CurateConfig) -> list[Row]:
    """The rows no step drops, as the problems stand."""
    history.drops.update(reading.early)
    _distinct(history.alive(reading.rows), history)
    for trace_id, said in reading.late.items():
        history.drops.setdefault(trace_id, said)
    if config.max_per_problem is not None:
        _at_most(history.alive(reading.rows), config.max_per_problem, history)
    return history.alive(reading.rows)


def _distinct(rows: Sequence[Row], history: History) -> None:
    """One example a prompt and text, white space aside, whatever their problems and sources; the first stays."""
    first: dict[int, str] = {}
    for row in rows:
        same = first.setdefault(row.digest, row.trace_id)
        if same != row.trace_id:
            history.drop(row, "distinct", Finding("duplicate", same, None, f"says the same as {same}"))


def _at_most(rows: Sequence[Row], limit: int, history: History) -> None:
    """The first `limit` examples of a problem."""
    taken: Counter[int] = Counter()
    for row in rows:
        taken[row.problem] += 1
        if taken[row.problem] > limit:
            finding = Finding("over-quota", taken[row.problem], limit, f"its problem has {limit} already")
            history.drop(row, "at-most", finding)


def _matches(
    rows: Sequence[Row], history: History, held_out: HeldOut, texts: Texts, counted: Counter[str]
) -> Iterator[Match]:
    """Every stretch a dropped row shares with a held-out problem; its text is read again for it."""
    prompts: set[int] = set()
    for row in rows:
        step, finding = history.drops.get(row.trace_id, (None, None))
        if step != "clean" or finding is None or row.problem in prompts:
            continue
        problem = texts.questions[row.problem]
        if finding.reason == "contaminated-trace":
            found = [shared.match("trace", problem.id, row.trace_id) for shared in held_out.in_trace(texts.said(row))]
        else:
            prompts.add(row.problem)
            found = [shared.match("prompt", problem.id, None) for shared in held_out.in_prompt(problem.prompt)]
        counted.update(f"{match.how} in a {match.where}" for match in found)
        yield from found


def _nothing(counts: Sequence[Count]) -> str:
    why = ", ".join(f"{reason} {count:,}" for reason, count in by_count(_reasons(counts)))
    return f"curate: none of {counts[0].before:,} traces is kept ({why or 'the harvest is empty'})"


def _reasons(counts: Sequence[Count]) -> Counter[str]:
    return sum((count.reasons for count in counts), Counter())


def _report(counts: Sequence[Count], kept: int, mark: dict[str, object], checksum: str) -> Report:
    lines = [
        f"{count.name:<14} {count.before:>9,} -> {count.after:>9,}  "
        + ", ".join(f"{reason} {number:,}" for reason, number in by_count(count.reasons))
        for count in counts
    ]
    steps = {
        count.name: {"before": count.before, "after": count.after, "reasons": dict(sorted(count.reasons.items()))}
        for count in counts
    }
    return Report(
        counts={"traces": counts[0].before, "examples": kept, **dict(sorted(_reasons(counts).items()))},
        lines=tuple(line.rstrip() for line in lines),
        marks={"decontaminated": mark, "examples": checksum, "steps": steps},
    )
