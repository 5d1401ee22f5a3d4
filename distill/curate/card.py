"""Card: what a dataset is made of, written from the ledger for whoever meets it later.

The sections follow the dataset card of the Hugging Face hub; every figure is counted, none
is typed in. Holds no date and no path, so the same data gives the same card. `README.md`
beside it says to the hub and to `datasets` which file holds the rows.
"""

import re
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
from distill.curate.terms import Source
from distill.curate.writing import EXAMPLES, PARQUET
from distill.runs import write_durably

CARD, README, LENGTHS, LEVELS, MATCHES = "card.md", "README.md", "lengths.svg", "levels.svg", "decontamination.jsonl"


CONSTRUCTED = (
    " Procedural prompts share their phrases on purpose, so only equal prompts count here; "
    "the families split train and test by a stable hash of the composition."
)


@dataclass(frozen=True, slots=True)
class Told:
    """All that a card tells."""

    config: CurateConfig
    seed: int
    harvests: Sequence[str]
    problems: Sequence[str]
    terms: Sequence[Source]
    """Sources of the traces with licence and terms."""
    sources: Sources
    counts: Sequence[Count]
    kept: Sequence[Row]
    mark: Mapping[str, Any] | str
    """How it was decontaminated, as in the manifest."""
    matches: Counter[str]
    """Shared stretches by where they were found and how."""
    checksum: str


def write_card(out: Path, told: Told) -> None:
    """Markdown, its two plots, and the page the hub opens with."""
    config, sources, kept = told.config, told.sources, len(told.kept)
    parts = [
        f"# {kept:,} examples from {_plain(', '.join(told.harvests))}",
        f"Answers to the problems of {_plain(', '.join(told.problems))}. {_plain(_chosen(config))}; "
        f"thought: {config.thought}; order: {config.order}; instruction: {config.instruction}; seed: {told.seed}.",
        f"`{EXAMPLES}` has the SHA-256 prefix `{told.checksum}`; `{PARQUET}` holds the same rows.",
        "## Where it comes from\n\n"
        + _table(("source", "teacher", "licence", "terms", "who says so", "traces", "address"), _terms(told)),
        "## Who spoke\n\n" + _table(("sampler", "traces"), by_count(sources.samplers)),
        _table(("how it was asked", "traces"), by_count(Counter(sources.asked()))),
        "## What the judge said\n\n" + _table(("verdict", "traces"), by_count(sources.verdicts)),
        "## What was dropped\n\n" + _table(("filter", "before", "after", "reasons"), _steps(told.counts)),
        f"What every step said about every trace is in `{HISTORY}`.",
        f"## Decontamination\n\n{_decontamination(told.mark)}",
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


def _chosen(config: CurateConfig) -> str:
    """What decided which traces are taken, policies with all that was set."""
    if not config.policies:
        return f"Kept: {config.keep}"
    tables = (policy.model_dump(mode="json", exclude_unset=True) for policy in config.policies)
    told = (", ".join(f"{key} = {value}" for key, value in table.items() if key != "policy") for table in tables)
    named = (
        f"{policy.policy} ({said})" if said else policy.policy
        for policy, said in zip(config.policies, told, strict=True)
    )
    return f"Policies: {', '.join(named)}"


def _terms(told: Told) -> list[tuple[str, ...]]:
    accepted = told.config.accept_terms
    return [
        (
            source.name,
            source.teacher or "",
            source.licence,
            source.terms + (", accepted in the recipe" if source.name in accepted else ""),
            source.basis,
            "" if source.traces is None else f"{source.traces:,}",
            source.url or "",
        )
        for source in told.terms
    ]


def _decontamination(mark: Mapping[str, Any] | str) -> str:
    if isinstance(mark, str):
        return "None: nobody compared these examples with any benchmark."
    against = _plain(", ".join(f"{source} ({count:,})" for source, count in mark["against"].items()))
    missing = ", ".join(mark.get("not_there", ()))
    return (
        f"Method `{mark['method']}` against {against}: {mark['removed']:,} traces removed, "
        f"{mark['flagged']:,} flagged. Every match is in `{MATCHES}`."
        + (f" Not compared, for their files were not there: {missing}." if missing else "")
        + (CONSTRUCTED if mark["method"] == "by-construction" else "")
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
    cells += [tuple(f"{cell:,}" if isinstance(cell, int) else _plain(str(cell)) for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


_MARKUP = re.compile(r"[\\`*\[<|]")


def _plain(text: str) -> str:
    """A name from elsewhere that stands in Markdown as it is, on one line: no table, link or tag of its own."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
