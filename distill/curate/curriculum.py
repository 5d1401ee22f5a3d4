"""Curriculum: in which order a student meets the examples.

The easy-to-hard order is Bengio et al. 2009; what makes an example easy is a choice. The rows
themselves stand in one order; every further one is an index into them, so that students can
be taught in several orders from one copy of the texts.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from distill.curate.row import Row
from distill.errors import UserError
from distill.records import fingerprint

Order = Literal["none", "level", "length", "pass-rate", "loss"]


def ordered(rows: Sequence[Row], order: Order, first: Sequence[str], seed: int) -> list[Row]:
    """Rows from easy to hard, those of the families `first` before all others.

    Equal ranks are shuffled by a seeded hash, so that problems do not come in clumps; `none`
    leaves rows as they stand. Raises UserError when a rank is not known for every row.
    """
    rank, placed = RANKS[order], list(rows)
    if rank is not None:  # one after another from the last, each stable: fewer keys in memory than one of tuples
        placed.sort(key=lambda row: int(fingerprint([seed, row.trace_id]), 16))
        placed.sort(key=rank)
    if first:
        placed.sort(key=lambda row: row.source not in first)
    return placed


def order_file(order: str) -> str:
    """Name of the index of a further order, beside the examples: line k holds the row that comes as number k."""
    return f"order-{order}.jsonl"


def _pass_rate(row: Row) -> float:
    """Often solved first."""
    if row.pass_rate is None:
        raise UserError(f"order pass-rate: trace {row.trace_id} has a problem without any verdict; judge it first")
    return -row.pass_rate


def _loss(row: Row) -> tuple[bool, float]:
    """What the model of the first measure step finds likely first, what it has not measured last."""
    measured = row.measures[0]
    return measured is None, 0.0 if measured is None else measured.loss


RANKS: dict[Order, Callable[[Row], Any] | None] = {
    "none": None,
    "level": lambda row: row.level or 0,
    "length": lambda row: row.characters,
    "pass-rate": _pass_rate,
    "loss": _loss,
}
