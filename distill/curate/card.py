"""Card: what a dataset is made of, written from the ledger for whoever meets it later.

The sections follow the dataset card of the Hugging Face hub; every figure is counted, none
is typed in. Holds no date and no path, so the same data gives the same card.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.curate.config import CurateConfig
from distill.curate.filters import Row, Sieved
from distill.records import Example, Trace, Verdict
from distill.runs import write_durably


@dataclass(slots=True)
class Sources:
    """Where the traces came from, counted while they are read."""

    harvests: tuple[str, ...]
    problems: str
    samplers: Counter[str] = field(default_factory=Counter)
    params: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)

    def count(self, trace: Trace, verdict: Verdict | None) -> None:
        """One stored trace."""
        self.samplers[f"{trace.sampler.name} {trace.sampler.revision}"] += 1
        self.params[trace.params.to_json() if trace.params else "not recorded"] += 1
        self.verdicts[verdict.status if verdict else "unjudged"] += 1


def write_card(
    path: Path, config: CurateConfig, sources: Sources, sieved: Sieved, mark: dict[str, Any], checksum: str
) -> None:
    """Markdown with a front matter the hub reads."""
    kept = len(sieved.kept)
    against = ", ".join(f"{source} ({count:,})" for source, count in mark["against"].items())
    parts = [
        f"---\npretty_name: {kept:,} reasoning traces\nconfigs:\n- config_name: default\n"
        "  data_files: examples.parquet\n---",
        f"# {kept:,} examples from {', '.join(sources.harvests)}",
        f"Answers to the problems of {sources.problems}. Kept: {config.keep}; thought: {config.thought}; "
        f"order: {config.order}; instruction: {config.instruction}.",
        f"`examples.jsonl` has the SHA-256 prefix `{checksum}`.",
        "## Who spoke\n\n" + _table(("sampler", "traces"), sources.samplers.items()),
        _table(("how it was asked", "traces"), [(f"`{params}`", count) for params, count in sources.params.items()]),
        "## What the judge said\n\n" + _table(("verdict", "traces"), sources.verdicts.most_common()),
        "## What was dropped\n\n" + _table(("filter", "before", "after", "reasons"), _steps(sieved)),
        f"## Decontamination\n\nMethod `{mark['method']}` against {against}: {mark['removed']:,} traces removed. "
        f"Every match is in `decontamination.jsonl`.{_caveat(mark['method'])}",
        "## What is in it\n\n" + _table(("family", "level", "problems", "examples"), _levels(sieved.kept)),
    ]
    write_durably(path, "\n\n".join(parts) + "\n")


def examples_parquet(path: Path, examples: Sequence[Example]) -> None:
    """The same rows for the hub and for `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("problem_id", pa.string()),
            ("trace_id", pa.string()),
            ("messages", pa.list_(turn)),
            ("tokens", pa.int64()),
            ("order", pa.int64()),
        ]
    )
    staged = path.with_name(path.name + ".tmp")
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in examples], schema), staged)
    staged.replace(path)


def _caveat(method: str) -> str:
    if method != "by-construction":
        return ""
    return (
        " Procedural prompts share their phrases on purpose, so only equal prompts count here; "
        "the families split train and test by a stable hash of the composition."
    )


def _steps(sieved: Sieved) -> list[tuple[object, ...]]:
    return [
        (
            count.name,
            count.before,
            count.after,
            ", ".join(f"{reason} {number:,}" for reason, number in count.reasons.most_common()),
        )
        for count in sieved.counts
    ]


def _levels(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    examples: Counter[tuple[str, int]] = Counter()
    problems: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        key = row.problem.source, row.problem.level or 0
        examples[key] += 1
        problems.setdefault(key, set()).add(row.problem.id)
    return [
        (source, level or "", len(problems[source, level]), examples[source, level])
        for source, level in sorted(examples)
    ]


def _table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table; numbers with thousands separators."""
    cells = [head, ("---",) * len(head)]
    cells += [tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
