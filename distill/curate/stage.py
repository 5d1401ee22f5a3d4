"""Curate: turn judged traces into training examples.

Keeps traces that ended by themselves and, when asked, only those judged correct; one per
distinct text; none that shares words with a held-out problem; orders them for a
curriculum. Every dropped row is written down with its reason.
Does not judge correctness (the judge has done so) and does not tokenize for training.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.curate.card import Sources, examples_parquet, write_card
from distill.curate.config import CurateConfig
from distill.curate.decontaminate import HeldOut, Match
from distill.curate.filters import (
    Filter,
    Row,
    Sieved,
    at_most,
    clean,
    distinct,
    short_enough,
    sieve,
    trainable,
    verified,
)
from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.prompts import THINK, Chat, join_thought
from distill.recipe import file_fingerprint
from distill.records import Example, Message, Problem, Trace, Verdict, fingerprint
from distill.runs import Report
from distill.selection import Ask, asking, read_problems

EXAMPLES, PARQUET, CARD = "examples.jsonl", "examples.parquet", "card.md"
DROPPED, MATCHES = "dropped.jsonl", "decontamination.jsonl"


def curate(
    traces: Sequence[Path],
    problems: Path,
    against: Sequence[Path],
    out: Path,
    config: CurateConfig,
    *,
    seed: int,
    progress: Progress,
    chat: Chat | None = None,
) -> Report:
    """Write examples, the dropped rows, the contamination matches and a card into `out`.

    Same input, same bytes. `chat` renders with the tokenizer the config names.
    """
    if (chat is None) != (config.tokenizer is None):
        raise UserError("curate: a chat is needed exactly when the config names a tokenizer")
    held_out = _held_out(against)
    known = {problem.id: problem for problem in read_problems(problems)}
    sources = Sources(harvests=tuple(path.name for path in traces), problems=problems.name)
    rows = _rows(traces, known, config, sources, problems, progress)
    matches: list[Match] = []
    lengths: dict[str, int] = {}
    filters = _filters(config, HeldOut(held_out, config.decontaminate), matches, chat, lengths)
    sieved = sieve(rows, filters, progress)
    if not sieved.kept:
        reasons = _reasons(sieved)
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
        raise UserError(f"curate: none of {len(rows):,} traces is kept ({why or 'the harvest is empty'})")
    examples = [_example(row, order, config, lengths) for order, row in enumerate(_ordered(sieved.kept, config, seed))]
    write_jsonl(out / EXAMPLES, examples)
    write_jsonl(out / DROPPED, sieved.dropped)
    write_jsonl(out / MATCHES, matches)
    examples_parquet(out / PARQUET, examples)
    removed = sum(count.reasons.total() for count in sieved.counts if count.name == "clean")
    mark: dict[str, object] = {
        "against": dict(sorted(Counter(problem.source for problem in held_out).items())),
        "method": config.decontaminate,
        "removed": removed,
    }
    checksum = file_fingerprint(out / EXAMPLES)
    write_card(out / CARD, config, sources, sieved, mark, checksum)
    return _report(sieved, mark, checksum)


def _held_out(against: Sequence[Path]) -> list[Problem]:
    """Test-split problems of every place named; a place without any is a mistake."""
    found: list[Problem] = []
    for path in against:
        test = [problem for problem in read_problems(path) if problem.split == "test"]
        if not test:
            raise UserError(f"{path}: holds no problem of split 'test', so nothing can be checked against it")
        found.extend(test)
    return found


def _rows(
    traces: Sequence[Path],
    known: Mapping[str, Problem],
    config: CurateConfig,
    sources: Sources,
    problems: Path,
    progress: Progress,
) -> list[Row]:
    """Every stored trace once, in the order of the problems and of the samples drawn."""
    ask = asking(config.instruction)
    place = {problem_id: number for number, problem_id in enumerate(known)}
    rows: dict[str, tuple[tuple[int, int, int, str], Row]] = {}
    strangers: list[str] = []
    with progress.task("curate: reading", unit="traces") as task:
        for folder in traces:
            verdicts = {verdict.trace_id: verdict for verdict in read_ledger(folder / VERDICTS, Verdict)}
            for trace in read_ledger(folder / TRACES, Trace):
                task.advance()
                if trace.id in rows:
                    continue
                sources.count(trace, verdicts.get(trace.id))
                if trace.problem_id not in known:
                    strangers.append(trace.problem_id)
                    continue
                key = place[trace.problem_id], trace.round, trace.sample_index, trace.id
                rows[trace.id] = key, _row(known[trace.problem_id], trace, verdicts.get(trace.id), config, ask)
    if strangers:
        raise UserError(
            f"{problems}: has no problem {strangers[0]!r}, which {len(strangers):,} traces answer; "
            f"expected the problems the traces were harvested from"
        )
    return [row for _, row in sorted(rows.values(), key=lambda pair: pair[0])]


def _row(problem: Problem, trace: Trace, verdict: Verdict | None, config: CurateConfig, ask: Ask) -> Row:
    return Row(
        problem=problem,
        trace_id=trace.id,
        messages=(*ask(problem), Message(role="assistant", content=_text(trace, config))),
        finished=trace.finish == "stop",
        verdict=verdict.status if verdict else "unjudged",
        why=verdict.why if verdict else "",
        isolation=verdict.isolation if verdict else None,
    )


def _text(trace: Trace, config: CurateConfig) -> str:
    """What the student is to say: thought and answer, or as it came when the thought never closed."""
    if config.thought == "drop":
        return trace.answer or ""
    if trace.answer is not None:
        return join_thought(trace.reasoning, trace.answer)
    return f"{THINK} {trace.text}" if trace.think_open else trace.text


def _filters(
    config: CurateConfig, held_out: HeldOut, matches: list[Match], chat: Chat | None, lengths: dict[str, int]
) -> list[Filter]:
    filters = [trainable()]
    if config.keep == "verified":
        filters.append(verified(in_process=config.in_process == "keep"))
    filters += [distinct(), clean(held_out, matches)]
    if chat is not None and config.max_tokens is not None:
        filters.append(short_enough(chat, config.max_tokens, lengths))
    if config.max_per_problem is not None:
        filters.append(at_most(config.max_per_problem))
    return filters


def _ordered(rows: list[Row], config: CurateConfig, seed: int) -> list[Row]:
    """Rows of equal rank are shuffled by a seeded hash, so that problems do not come in clumps."""

    def rank(row: Row) -> tuple[bool, int, str]:
        late = row.problem.source not in config.first
        if config.order == "none":
            return late, 0, ""  # the sort is stable: as they stand
        size = (row.problem.level or 0) if config.order == "level" else len(row.text)
        return late, size, fingerprint([seed, row.trace_id])

    return sorted(rows, key=rank)


def _example(row: Row, order: int, config: CurateConfig, lengths: Mapping[str, int]) -> Example:
    return Example(
        id=fingerprint([row.trace_id, config.thought, row.messages]),
        problem_id=row.problem.id,
        trace_id=row.trace_id,
        messages=row.messages,
        tokens=lengths.get(row.trace_id),
        order=order,
    )


def _reasons(sieved: Sieved) -> Counter[str]:
    return sum((count.reasons for count in sieved.counts), Counter())


def _report(sieved: Sieved, mark: dict[str, object], checksum: str) -> Report:
    lines = [
        f"{count.name:<14} {count.before:>9,} -> {count.after:>9,}  "
        + ", ".join(f"{reason} {number:,}" for reason, number in count.reasons.most_common())
        for count in sieved.counts
    ]
    counts: dict[str, int | float] = {"traces": sieved.counts[0].before, "examples": len(sieved.kept)}
    return Report(
        counts={**counts, **dict(sorted(_reasons(sieved).items()))},
        lines=tuple(line.rstrip() for line in lines),
        marks={"decontaminated": mark, "examples": checksum},
    )
