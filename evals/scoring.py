"""Scoring: from judged items to scores, paired differences and the table people read.

Every item counts for its family, its family's level, that level over all families, and
`all`. A problem whose reference answer is broken (`gold_bad`) measures nothing and is left
out; every other status than `correct` counts as not solved, and truncated and unparsed
answers are shown beside the score, because they are failures of another kind.
pass@k follows Chen et al. 2021 and is refused for fewer than k samples of any problem, maj@k likewise.
A variant of a problem (`distill.problems.variants`) is paired with the problem it was made from.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from distill.errors import UserError
from distill.intervals import mean_interval, paired_difference
from distill.problems.variants import original_of
from distill.records import Item, Record, Score
from evals.intervals import detectable, mcnemar_exact, pass_at_k
from evals.voting import can_vote, maj_at_k

ALL = "all"
PASS_1 = "pass@1"

Grouped = Mapping[str, Mapping[str, Sequence[Item]]]
"""Task -> problem id -> its items."""


class Paired(Record):
    """How much better `a` is than `b` on the problems both were asked, in pass@1."""

    a: str
    b: str
    task: str
    difference: float
    low: float
    high: float
    n: int
    p_mcnemar: float | None = None
    """Exact two-sided p-value; None when a problem has several samples."""
    better: int = 0
    """Problems of which a solves a larger share; with one sample each, those only a solves."""
    worse: int = 0
    detects: float | None = None
    """Smallest difference that so many problems show with 80% power, these two flipping as they do."""


class Drop(Record):
    """What one checkpoint loses when problems are put in another way: variant less original, in pass@1."""

    checkpoint: str
    task: str
    """The variant's source, or a level of it."""
    original: float
    value: float
    difference: float
    low: float
    high: float
    n: int
    p_mcnemar: float | None = None


def group(items: Iterable[Item]) -> Grouped:
    """Items by task and problem: `all`, families, their levels, levels over all families."""
    tasks: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        for task in tasks_of(item):
            tasks[task][item.problem_id].append(item)
    return {task: tasks[task] for task in sorted(tasks, key=task_order)}


def tasks_of(item: Item) -> tuple[str, ...]:
    """The tasks an item counts for."""
    if item.level is None:
        return ALL, item.task
    return ALL, item.task, f"{item.task}/level-{item.level}", f"level-{item.level}"


def task_order(task: str) -> tuple[int, str, int]:
    """Sort key: `all` first, then families, then their levels, then levels, by number."""
    head, slash, level = task.rpartition("/")
    if slash:
        return 2, head, _level(level)
    if task.startswith("level-"):
        return 3, "", _level(task)
    return (0, "", 0) if task == ALL else (1, task, 0)


def bad_gold(items: Iterable[Item]) -> set[str]:
    """Problems that cannot be judged: they count for no checkpoint, whoever found out."""
    return {item.problem_id for item in items if item.status == "gold_bad"}


def score(
    grouped: Grouped,
    checkpoint: str,
    fingerprint: str,
    protocol: str,
    ks: Sequence[int],
    *,
    maj: Sequence[int] = (),
    contamination: str | None = None,
) -> list[Score]:
    """Every task's pass@k of one checkpoint, and maj@k where its problems have answers to vote on.

    Raises UserError when a problem has fewer than k samples, or when no task can vote.
    """
    wanted = [*((f"pass@{k}", k) for k in ks), *((f"maj@{k}", k) for k in maj)]
    _refuse_few(grouped[ALL], checkpoint, wanted)
    if maj and not any(can_vote(_items(problems)) for problems in grouped.values()):
        raise UserError(f"maj: {checkpoint} has no answers to vote on (programs have no vote); leave maj out")
    scores = []
    for task, problems in grouped.items():
        items = _items(problems)
        voting = bool(maj) and can_vote(items)
        for metric, k in wanted:
            if metric.startswith("maj") and not voting:
                continue
            value = maj_at_k if metric.startswith("maj") else _solved
            found = mean_interval([value(samples, k) for samples in problems.values()])
            scores.append(
                Score(
                    checkpoint=checkpoint,
                    fingerprint=fingerprint,
                    task=task,
                    protocol=protocol,
                    metric=metric,
                    value=found.value,
                    n=found.n,
                    low=found.low,
                    high=found.high,
                    truncated=_share(items, "truncated"),
                    no_answer=_share(items, "unparsed"),
                    tokens_per_answer=sum(item.tokens for item in items) / len(items),
                    contamination=contamination,
                )
            )
    return scores


def _refuse_few(problems: Mapping[str, Sequence[Item]], checkpoint: str, wanted: Sequence[tuple[str, int]]) -> None:
    fewest = min(len(samples) for samples in problems.values())
    metric, k = max(wanted, key=lambda one: one[1])
    if k > fewest:
        few = sum(len(samples) < k for samples in problems.values())
        raise UserError(
            f"{'maj' if metric.startswith('maj') else 'k'}: {metric} needs {k} samples of every problem; "
            f"{checkpoint} has fewer for {few} of {len(problems)} problems (fewest {fewest})"
        )


def pair(a: str, b: str, items: Mapping[str, Grouped]) -> list[Paired]:
    """Paired differences of two checkpoints over the problems they share. UserError when there are none."""
    if not items[a][ALL].keys() & items[b][ALL].keys():
        raise UserError(f"compare: {a} and {b} have no problem in common")
    rows = []
    for task in items[a]:
        ours, theirs = items[a][task], items[b].get(task, {})
        shared = [(ours[name], theirs[name]) for name in ours if name in theirs]
        if shared:
            rows.append(_paired(a, b, task, shared))
    return rows


def drops(checkpoint: str, grouped: Grouped) -> list[Drop]:
    """What each kind of variant costs, over the problems asked in both ways; nothing where there are none."""
    everything = grouped[ALL]
    rows = []
    for task, problems in grouped.items():
        if task == ALL or task.startswith("level-"):
            continue  # they mix variants of several kinds
        both = [
            (samples, everything[original])
            for name, samples in problems.items()
            if (original := original_of(name)) in everything
        ]
        if both:
            found = _paired("", "", task, both)
            before = sum(_solved(samples, 1) for _, samples in both) / len(both)
            kept = found.model_dump(include={"difference", "low", "high", "n", "p_mcnemar"})
            value = before + found.difference
            rows.append(
                Drop(checkpoint=checkpoint, task=task, original=before, value=min(max(value, 0.0), 1.0), **kept)
            )
    return rows


def table(scores: Sequence[Score], paired: Sequence[Paired], dropped: Sequence[Drop] = ()) -> tuple[str, ...]:
    """Scores of `all` and each family, pass@1 by level, paired differences, drops on variants: aligned plain text."""
    blocks = [_score_rows(scores), _level_rows(scores), _paired_rows(paired), _drop_rows(dropped)]
    lines = [line for block in blocks if len(block) > 1 for line in ("", *aligned(block))]
    return tuple(lines[1:])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as text: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _score_rows(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    shown = [row for row in scores if "level-" not in row.task]
    if len({row.task for row in shown}) == 2:
        shown = [row for row in shown if row.task != ALL]  # one family: `all` says the same
    head = ("checkpoint", "task", "metric", "value", "95% interval", "n", "truncated", "no answer", "tokens/answer")
    rows: list[tuple[str, ...]] = [head]
    rows += [
        (
            row.checkpoint,
            row.task,
            row.metric,
            f"{row.value:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.n:,}",
            f"{row.truncated:.1%}",
            f"{row.no_answer:.1%}",
            f"{row.tokens_per_answer:,.1f}" if row.tokens_per_answer else "-",
        )
        for row in shown
    ]
    return rows


def _level_rows(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    found = {(row.checkpoint, row.task): row for row in scores if row.metric == PASS_1}
    levels = sorted({task for _, task in found if task.startswith("level-")}, key=task_order)
    if not levels:
        return []
    rows: list[tuple[str, ...]] = [("pass@1 by level", *levels)]
    for name in dict.fromkeys(row.checkpoint for row in scores):
        cells = (found.get((name, level)) for level in levels)
        rows.append((name, *(f"{cell.value:.1%}" if cell else "-" for cell in cells)))
    return rows


def _paired_rows(paired: Sequence[Paired]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("paired difference", "task", *PAIRED_HEAD)]
    for a, b in dict.fromkeys((row.a, row.b) for row in paired):
        ours = [row for row in paired if (row.a, row.b) == (a, b)]
        levels = [row for row in ours if row.task.startswith("level-")]
        lowest = [min(levels, key=lambda row: row.low)] if levels else []
        for row in [row for row in ours if row.task == ALL] + lowest:
            name = row.task if row.task == ALL else f"{row.task} (lowest)"
            rows.append((f"{a} - {b}", name, *paired_cells(row)))
    return rows


PAIRED_HEAD = ("points", "95% interval", "n", "flips", "p (McNemar)", "detects")


def paired_cells(row: Paired) -> tuple[str, ...]:
    """Cells of a paired difference under `PAIRED_HEAD`."""
    return (
        *_difference(row),
        f"+{row.better:,} -{row.worse:,}",
        _p(row),
        "-" if row.detects is None else f"{row.detects * 100:.1f}",
    )


def _drop_rows(dropped: Sequence[Drop]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("variant - original", "task", "original", "variant", "points", "95% interval", "n", "p (McNemar)")
    ]
    for row in dropped:
        if "/" not in row.task:
            shares = f"{row.original:.1%}", f"{row.value:.1%}"
            rows.append((row.checkpoint, row.task, *shares, *_difference(row), _p(row)))
    return rows


def _difference(row: Paired | Drop) -> tuple[str, str, str]:
    interval = f"{row.low * 100:+.1f} to {row.high * 100:+.1f}"
    return f"{row.difference * 100:+.1f}", interval, f"{row.n:,}"


def _p(row: Paired | Drop) -> str:
    return "-" if row.p_mcnemar is None else f"{row.p_mcnemar:.2g}"


def _solved(samples: Sequence[Item], k: int) -> float:
    return pass_at_k(len(samples), sum(item.status == "correct" for item in samples), k)


def _paired(a: str, b: str, task: str, shared: Sequence[tuple[Sequence[Item], Sequence[Item]]]) -> Paired:
    left = [_solved(samples, 1) for samples, _ in shared]
    right = [_solved(samples, 1) for _, samples in shared]
    won = sum(x > y for x, y in zip(left, right, strict=True))
    lost = sum(x < y for x, y in zip(left, right, strict=True))
    found = paired_difference(left, right)
    once = all(len(ours) == len(theirs) == 1 for ours, theirs in shared)
    return Paired(
        a=a,
        b=b,
        task=task,
        difference=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        p_mcnemar=mcnemar_exact(won, lost) if once else None,
        better=won,
        worse=lost,
        detects=detectable(left, right),
    )


def solved(problems: Mapping[str, Sequence[Item]]) -> dict[str, float]:
    """By problem: share of its samples that are right."""
    return {name: _solved(samples, 1) for name, samples in problems.items()}


def _items(problems: Mapping[str, Sequence[Item]]) -> list[Item]:
    return [item for samples in problems.values() for item in samples]


def _share(items: Sequence[Item], status: str) -> float:
    return sum(item.status == status for item in items) / len(items)


def _level(name: str) -> int:
    return int(name.removeprefix("level-"))
