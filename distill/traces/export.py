"""Export: traces with their verdicts and problems as parquet, or as a folder `datasets` opens, with a card.

One row a trace in the order of the ledger, one type a column: nothing is guessed from the data,
so no column changes its type half way (JSONL that mixes types passes silently into
`datasets.load_dataset`). Half characters cannot arrive: a line that holds one is refused as it
is read. Rows stream: a row group is in memory, never the ledger. The result appears whole or not
at all. The card's sections follow the dataset card of the Hugging Face hub.

Does not choose what is fit for training: that is curate's work.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from distill.errors import UserError, did_you_mean
from distill.progress import Progress
from distill.records import Problem, Status, Trace, Verdict
from distill.runs import sync_folder, write_durably
from distill.traces.asked import problems_of
from distill.traces.index import Index, open_index
from distill.traces.joined import joined
from distill.traces.stats import UNJUDGED, Stats, stats

README, DATA = "README.md", "data"
GROUP_ROWS, GROUP_CHARACTERS = 2_000, 16 << 20
"""A row group ends at either."""
FILE_CHARACTERS = 512 << 20
"""A file of a `datasets` folder ends behind the row group that reaches this; the hub streams such pieces well."""

TEXT, WHOLE, REAL, FLAG = "string", "int64", "double", "bool"
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("id", TEXT, "hash of what was asked, of whom and how; known before the trace was drawn"),
    ("problem_id", TEXT, "the problem it answers"),
    ("source", TEXT, "family or benchmark of the problem"),
    ("level", WHOLE, "level of the problem"),
    ("subject", TEXT, "subject of the problem"),
    ("split", TEXT, "train or test, as the problem's source says"),
    ("prompt", TEXT, "the problem"),
    ("gold", TEXT, "its gold answer"),
    ("reasoning", TEXT, "the thought without its tags; null when it never ended"),
    ("answer", TEXT, "what follows the thought"),
    ("text", TEXT, "the whole completion as it came"),
    ("finish", TEXT, "stop or length"),
    ("think_open", FLAG, "whether the prompt had opened the think block"),
    ("prompt_tokens", WHOLE, "in the sampler's tokens"),
    ("completion_tokens", WHOLE, "in the sampler's tokens"),
    ("cached_tokens", WHOLE, "of the prompt's tokens those not read again; null when the server does not say"),
    ("together", WHOLE, "completions of the call that brought it, when several: prompt_tokens is that of the call"),
    ("sampler", TEXT, "who spoke"),
    ("revision", TEXT, "which weights stood behind the name"),
    ("temperature", REAL, "null when nobody recorded it"),
    ("top_p", REAL, "null when nobody recorded it"),
    ("max_tokens", WHOLE, "null when nobody recorded it"),
    ("params", TEXT, "all that is known about how it was asked, as JSON"),
    ("round", WHOLE, "round of the harvest"),
    ("sample_index", WHOLE, "which draw of its round"),
    ("parent", TEXT, "the trace this one continues or corrects"),
    ("verdict", TEXT, ", ".join(get_args(Status)) + "; null when not judged"),
    ("judge_version", TEXT, "version of the judge"),
    ("extracted", TEXT, "the answer the judge found"),
    ("why", TEXT, "why it is not correct"),
)
TOKENS = (("token_ids", "int32"), ("logprobs", "float32"))
"""Lists, written when asked for."""


def export(
    folder: Path,
    out: Path,
    *,
    verdicts: Sequence[str],
    tokens: bool,
    problems: Path | None,
    progress: Progress,
) -> int:
    """Write `out`: one file when its name ends in .parquet, else a `datasets` folder. Returns the rows it has.

    `verdicts` are those taken, all when empty. Raises UserError, and leaves nothing at `out`, when a shard is
    damaged, when `out` is there already, or when no trace is taken.
    """
    for name in verdicts:
        if name not in (*get_args(Status), UNJUDGED):
            known = (*get_args(Status), UNJUDGED)
            raise UserError(f"--verdict {name}: unknown{did_you_mean(name, known)}; there are {', '.join(known)}")
    if out.exists():
        raise UserError(f"{out}: is there already; choose another --out or move it away")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for --out")
    told = stats(folder, problems=problems, progress=progress)
    taken = sum(count for name, count in told.verdicts.items() if not verdicts or name in verdicts)
    if not taken:
        raise UserError(f"{folder}: no trace is {' or '.join(verdicts) or 'stored'}; there are {told.verdicts}")
    staged = out.with_name(f".{out.name}.partial")
    _remove(staged)
    try:
        with open_index(folder, progress) as index:
            rows = _rows(index, problems_of(folder, problems), verdicts, tokens)
            with progress.task("export", taken, "traces") as task:
                if out.suffix == ".parquet":
                    _write(iter([staged]), rows, tokens, sys.maxsize, task.advance)
                else:
                    (staged / DATA).mkdir(parents=True)
                    _write(_names(staged / DATA), rows, tokens, FILE_CHARACTERS, task.advance)
                    write_durably(staged / README, _card(told, taken, verdicts, tokens))
        os.replace(staged, out)
        sync_folder(out.parent)
    finally:
        _remove(staged)
    return taken


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _names(folder: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield folder / f"traces-{number:05}.parquet"
        number += 1


def _rows(index: Index, problems: Path | None, verdicts: Sequence[str], tokens: bool) -> Iterator[dict[str, Any]]:
    """Rows in the order of the ledger."""
    for found in joined(index, problems):
        if not verdicts or (UNJUDGED if found.verdict is None else found.verdict.status) in verdicts:
            yield _row(found.trace, found.verdict, found.problem, tokens)


def _row(trace: Trace, verdict: Verdict | None, problem: Problem | None, tokens: bool) -> dict[str, Any]:
    params = trace.params
    row = {
        **trace.model_dump(exclude={"sampler", "params", "token_ids", "logprobs", "top_logprobs"}),
        "sampler": trace.sampler.name,
        "revision": trace.sampler.revision,
        "temperature": params and params.temperature,
        "top_p": params and params.top_p,
        "max_tokens": params and params.max_tokens,
        "params": params and params.to_json(),
        "verdict": verdict and verdict.status,
        "judge_version": verdict and verdict.judge_version,
        "extracted": verdict and verdict.extracted,
        "why": verdict and verdict.why,
        "source": problem and problem.source,
        "level": problem and problem.level,
        "subject": problem and problem.subject,
        "split": problem and problem.split,
        "prompt": problem and problem.prompt,
        "gold": problem and problem.answer,
    }
    if tokens:
        row |= {name: getattr(trace, name) for name, _ in TOKENS}
    return row


def _write(
    paths: Iterator[Path], rows: Iterator[dict[str, Any]], tokens: bool, most: int, count: Callable[[int], None]
) -> None:
    """Row groups into files, each of at most so many characters and the group that reaches them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(name, pa.type_for_alias(kind)) for name, kind, _ in COLUMNS]
    fields += [(name, pa.list_(pa.type_for_alias(kind))) for name, kind in TOKENS if tokens]
    schema = pa.schema(fields)
    groups = _groups(rows)
    group = next(groups, None)
    for path in paths:
        size = 0
        with path.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                while group is not None and size < most:
                    writer.write_table(pa.Table.from_pylist(group, schema))
                    size += sum(map(_size, group))
                    count(len(group))
                    group = next(groups, None)
            file.flush()
            os.fsync(file.fileno())
        if group is None:
            return


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += _size(row)
        if len(group) >= GROUP_ROWS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _size(row: dict[str, Any]) -> int:
    """Characters of the long texts of a row, and eight for each token."""
    texts = sum(len(row[name] or "") for name in ("prompt", "reasoning", "answer", "text"))
    return texts + 8 * len(row.get("token_ids") or ())


def _card(told: Stats, taken: int, verdicts: Sequence[str], tokens: bool) -> str:
    """Counted, none of it typed in; holds no date and no path, so the same ledger gives the same card."""
    chosen = f"Taken: {', '.join(verdicts)}." if verdicts else "Taken: all."
    columns = [*((name, kind, what) for name, kind, what in COLUMNS)]
    columns += [(name, f"list of {kind}", "of the completion") for name, kind in TOKENS if tokens]
    parts = [
        f"---\npretty_name: {taken:,} reasoning traces\nconfigs:\n- config_name: default\n"
        f"  data_files: {DATA}/*.parquet\n---",
        f"# {taken:,} reasoning traces",
        f"One chain of thought with its answer and verdict a row. The ledger holds {told.traces:,} traces of "
        f"{told.problems:,} problems. {chosen}",
        "Every trace is here as it was drawn, mistakes included: nothing was filtered, deduplicated or compared with "
        "any benchmark. The terms of the problems' sources and of the samplers hold for it.",
        "## Who spoke\n\n"
        + _table(("sampler", "traces", "tokens"), ((g.name, g.traces, g.tokens) for g in told.samplers)),
        "## What the judge said\n\n"
        + _table(("verdict", "traces"), told.verdicts.items())
        + "\n\n"
        + _table(("judge", "traces"), told.judges.items()),
        "## What was asked\n\n"
        + _table(
            ("family", "problems", "traces", "correct"),
            ((g.name, g.problems, g.traces, g.verdicts.get("correct", 0)) for g in told.families),
        ),
        "## How long they are\n\nCompletion tokens, in the sampler's own.\n\n"
        + _table(
            ("", "traces", *(f"{float(share):.0%}" for share in told.lengths[0].quantiles)),
            ((row.name, row.traces, *row.quantiles.values()) for row in told.lengths if row.quantiles),
        ),
        "## Columns\n\n" + _table(("column", "type", "meaning"), columns),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    cells = [head, ("---",) * len(head)]
    cells += [tuple(_cell(cell) for cell in row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _cell(cell: object) -> str:
    """A number with separators, or a name that cannot break its row."""
    return f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|").replace("\n", " ")
