"""In words: the summary as Markdown, for a message, a model card or a pull request.

Tables of GitHub's Markdown; cells are escaped, so that a name cannot end one. Traces and charts are the page's.
"""

import re
from collections.abc import Iterable, Sequence

from evals.report.drawing import chance, compact, signed
from evals.report.summary import Checkpoint, Examined, Harvested, Summary
from evals.scoring import ALL, PASS_1, task_order

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def markdown(summary: Summary) -> str:
    """The whole document."""
    parts = [f"# {_plain(summary.title)}\n"]
    for bench in summary.benches:
        parts += _bench(bench)
    if summary.harvests:
        head = ("harvest", "traces", "correct", "95% interval", "tokens", "cost")
        parts += ["## Harvest\n", _table(head, map(_harvest, summary.harvests))]
    steps = [(row.name, row.stage, f"{row.seconds:,.1f}", str(row.seed), row.fingerprint) for row in summary.steps]
    parts += ["## Steps\n", _table(("step", "stage", "seconds", "seed", "fingerprint"), steps)]
    parts += ["## Once more\n", *(f"```\n{one}\n```\n" for one in summary.commands)]
    return "\n".join(parts)


def _bench(bench: Examined) -> list[str]:
    known = {row.name: row for row in bench.checkpoints}
    rows = [
        (
            row.checkpoint,
            known[row.checkpoint].role,
            row.metric,
            f"{row.value:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.n:,}",
            f"{row.truncated:.1%}",
            f"{row.no_answer:.1%}",
            f"{row.tokens_per_answer:,.1f}" if row.tokens_per_answer else "",
            _size(known[row.checkpoint]),
        )
        for row in bench.scores
        if row.task == ALL
    ]
    head = ("checkpoint", "role", "metric", "value", "95% interval", "problems", "truncated", "no answer")
    protocols = ", ".join(sorted({row.protocol for row in bench.scores}))
    made = [f"## {_plain(bench.name)}\n", f"Protocol {_plain(protocols)}.\n"]
    made += [_table((*head, "tokens/answer", "size"), rows)]
    made += [f"- {_plain(note)}" for note in bench.notes] + ([""] if bench.notes else [])
    tasks = sorted({row.task for row in bench.scores if row.metric == PASS_1 and row.task != ALL}, key=task_order)
    if len(tasks) > 1:
        found = {(row.checkpoint, row.task): row for row in bench.scores if row.metric == PASS_1}
        by_task = [
            (task, *(f"{one.value:.1%}" if (one := found.get((name, task))) else "" for name in known))
            for task in tasks
        ]
        made += ["By family and level, pass@1:\n", _table(("", *known), by_task)]
    pairs = [
        (
            f"{row.a} − {row.b}",
            signed(row.difference),
            f"{signed(row.low)} to {signed(row.high)}",
            f"{row.n:,}",
            chance(row.p_mcnemar),
            *next((f"{one.gained:,}", f"{one.lost:,}") for one in bench.flips if (one.a, one.b) == (row.a, row.b)),
        )
        for row in bench.paired
        if row.task == ALL
    ]
    if pairs:
        columns = ("pair", "points", "95% interval", "problems", "p (McNemar)", "only the first", "only the second")
        made += ["Paired, problem by problem:\n", _table(columns, pairs)]
    if bench.subjects:
        by_subject = [
            (subject, *(f"{at.value:.1%} (n {at.n:,})" if (at := row.get(name)) else "" for name in known))
            for subject, row in bench.subjects.items()
        ]
        made += ["By subject, pass@1:\n", _table(("subject", *known), by_subject)]
    return made


def _harvest(row: Harvested) -> Sequence[str]:
    at, cost = row.correct, row.spent.get("cost")
    return (
        row.name,
        f"{at.n:,}",
        f"{at.value:.1%}",
        f"{at.low:.1%} to {at.high:.1%}",
        f"{row.tokens:,}",
        "" if cost is None else f"{cost:,.4g} {row.spent.get('currency', '')}",
    )


def _size(row: Checkpoint) -> str:
    active = (
        "" if row.active_parameters in (None, row.parameters) else f" ({compact(row.active_parameters or 0)} active)"
    )
    size = [f"{compact(row.parameters)}{active}"] if row.parameters else []
    return ", ".join([*size, *([f"{compact(row.bytes)}B"] if row.bytes else [])])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    listed = list(rows)
    kept = [i for i in range(len(head)) if any(row[i] for row in listed)]
    lines = [[_plain(head[i]) for i in kept], ["---" if place == 0 else "---:" for place in range(len(kept))]]
    lines += [[_plain(row[i]) for i in kept] for row in listed]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _plain(cell: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(cell.split()))
