"""Card: what a dataset is made of, written from the ledger for whoever meets it later.

The sections follow the dataset card of the Hugging Face hub; every figure is counted, none
is typed in. Holds no date and no path, so the same data gives the same card. `README.md`
beside it says to the hub and to `datasets` which file holds the rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.curate.bars import bars
from distill.curate.config import CurateConfig
from distill.curate.history import HISTORY, Count, by_count
from distill.curate.row import Row
from distill.curate.sources import Sources
from distill.curate.writing import EXAMPLES, PARQUET
from distill.runs import write_durably

CARD, README, LENGTHS, LEVELS, MATCHES = "card.md", "README.md", "lengths.svg", "levels.svg", "decontamination.jsonl"


@dataclass(frozen=True, slots=True)
class Told:
    """All that a card tells."""

    config: CurateConfig
    seed: int
    harvests: Sequence[str]
    problems: Sequence[str]
    sources: Sources
    counts: Sequence[Count]
    kept: Sequence[Row]
    mark: Mapping[str, Any]
    """How it was decontaminated, as in the manifest."""
    matches: Counter[str]
    """Shared stretches by where they were found and how."""
    checksum: str


def write_card(out: Path, told: Told) -> None:
    """Markdown, its two plots, and the page the hub opens with."""
    config, sources, kept = told.config, told.sources, len(told.kept)
    against = ", ".join(f"{source} ({count:,})" for source, count in told.mark["against"].items())
    removed, method = told.mark["removed"], told.mark["method"]
    parts = [
        f"# {kept:,} examples from {', '.join(told.harvests)}",
        f"Answers to the problems of {', '.join(told.problems)}. Kept: {config.keep}; thought: {config.thought}; "
        f"order: {config.order}; instruction: {config.instruction}; seed: {told.seed}.",
        f"`{EXAMPLES}` has the SHA-256 prefix `{told.checksum}`; `{PARQUET}` holds the same rows.",
        "## Who spoke\n\n" + _table(("sampler", "traces"), by_count(sources.samplers)),
        _table(("how it was asked", "traces"), _asked(sources)),
        "## What the judge said\n\n" + _table(("verdict", "traces"), by_count(sources.verdicts)),
        "## What was dropped\n\n" + _table(("filter", "before", "after", "reasons"), _steps(told.counts)),
        f"What every step said about every trace is in `{HISTORY}`.",
        f"## Decontamination\n\nMethod `{method}` against {against}: {removed:,} traces removed. "
        f"Every match is in `{MATCHES}`.{_caveat(method)}",
        *([_table(("found", "stretches"), by_count(told.matches))] if told.matches else []),
        "## What is in it\n\n" + _table(("family", "level", "problems", "examples"), _levels(told.kept)),
        f"![Examples of each length]({LENGTHS})\n\n![Examples of each level]({LEVELS})",
    ]
    write_durably(out / LENGTHS, bars(*_lengths(told.kept)))
    levels = [(f"{source} {level}".strip(), examples) for source, level, _, examples in _levels(told.kept)]
    write_durably(out / LEVELS, bars("examples of each family and level", levels))
    write_durably(out / CARD, "\n\n".join(parts) + "\n")
    write_durably(out / README, _readme(kept))


def _readme(kept: int) -> str:
    return (
        f"---\npretty_name: {kept:,} reasoning traces\n"
        f"configs:\n- config_name: default\n  data_files: {PARQUET}\n---\n\n"
        f"{kept:,} conversations in the chat format, one a row. What they are made of stands in [{CARD}]({CARD}).\n"
    )


def _asked(sources: Sources) -> list[tuple[str, int]]:
    return [(f"`{asked}`", count) for asked, count in by_count(Counter(sources.asked()))]


def _caveat(method: str) -> str:
    if method != "by-construction":
        return ""
    return (
        " Procedural prompts share their phrases on purpose, so only equal prompts count here; "
        "the families split train and test by a stable hash of the composition."
    )


def _steps(counts: Sequence[Count]) -> list[tuple[object, ...]]:
    return [
        (
            count.name,
            count.before,
            count.after,
            ", ".join(f"{reason} {number:,}" for reason, number in by_count(count.reasons)),
        )
        for count in counts
    ]


def _lengths(rows: Sequence[Row]) -> tuple[str, list[tuple[str, int]]]:
    """A bar for every doubling of tokens, from the shortest to the longest."""
    counted = all(row.tokens is not None for row in rows)
    sizes = Counter((row.tokens or row.completion_tokens).bit_length() for row in rows)
    unit = "student tokens, prompt included" if counted else "tokens of the sampler, prompt not included"
    spans = range(min(sizes, default=0), max(sizes, default=-1) + 1)
    return f"examples by {unit}", [(f"{1 << size >> 1:,} to {(1 << size) - 1:,}", sizes[size]) for size in spans]


def _levels(rows: Sequence[Row]) -> list[tuple[str, object, int, int]]:
    examples: Counter[tuple[str, int]] = Counter()
    problems: dict[tuple[str, int], set[int]] = {}
    for row in rows:
        key = row.source, row.level or 0
        examples[key] += 1
        problems.setdefault(key, set()).add(row.problem)
    return [
        (source, level or "", len(problems[source, level]), examples[source, level])
        for source, level in sorted(examples)
    ]


def _table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table; numbers with thousands separators."""
    cells = [head, ("---",) * len(head)]
    cells += [tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
