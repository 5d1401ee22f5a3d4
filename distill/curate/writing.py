"""Writing: the kept rows, read again by their place, as JSONL and as parquet of the same rows.

A batch of examples is in memory at a time. Batches are cut by count and by characters, so the
bytes of the parquet file depend on the examples alone (and on the version of pyarrow).
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.curate.config import CurateConfig
from distill.curate.curriculum import order_file, ordered
from distill.curate.questions import Questions
from distill.curate.reading import Spoken, as_asked
from distill.curate.row import Row
from distill.harvest.draw import TRACES
from distill.jsonl import writing_jsonl
from distill.ledger import Places
from distill.progress import Progress
from distill.records import Example, Message, fingerprint
from distill.runs import write_durably
from distill.selection import asking

EXAMPLES, PARQUET = "examples.jsonl", "examples.parquet"
BATCH_ROWS, BATCH_CHARACTERS = 4096, 16 << 20


class Texts:
    """The texts of rows, by their places."""

    def __init__(self, folders: Sequence[Path], questions: Questions, config: CurateConfig) -> None:
        self.questions, self.config = questions, config
        self._ledgers = [Places(folder / TRACES, Spoken) for folder in folders]
        self._ask = asking(config.instruction)

    def said(self, row: Row) -> str:
        """What the student is to say."""
        return self._ledgers[row.ledger].read(row.shard, row.offset).say(self.config.thought)

    def example(self, row: Row) -> Example:
        """A row that has its place, as an example."""
        assert row.order is not None, "rows are ordered before they are written"
        problem = self.questions[row.problem]
        messages = (*self._ask(problem), Message(role="assistant", content=self.said(row)))
        return Example(
            id=fingerprint([row.trace_id, self.config.thought, messages]),
            problem_id=problem.id,
            trace_id=row.trace_id,
            messages=messages,
            tokens=row.tokens,
            order=row.order,
        )

    def close(self) -> None:
        """Let go of the ledgers."""
        for ledger in self._ledgers:
            ledger.close()


def write_examples(out: Path, rows: Sequence[Row], texts: Texts, progress: Progress) -> "array[int]":
    """Write `rows` in their order, which they take on, into `out`; returns the 64 bits of each example's id."""
    ids = array("Q")
    for order, row in enumerate(rows):
        row.order = order
    with (
        progress.task("curate: writing", total=len(rows), unit="examples") as task,
        writing_jsonl(out / EXAMPLES) as write,
        _Parquet(out / PARQUET) as parquet,
    ):
        for batch in _batches(texts.example(row) for row in rows):
            for example in batch:
                write(example)
                ids.append(int(example.id, 16))
            parquet.write(batch)
            task.advance(len(batch))
    return ids


def write_orders(out: Path, rows: Sequence[Row], config: CurateConfig, seed: int) -> None:
    """For each further order a file of numbers: line k says which row of the examples comes as number k."""
    stand = list(rows)
    as_asked(stand)
    for order in config.orders:
        places = (row.order for row in ordered(stand, order, config.first, seed))
        write_durably(out / order_file(order), "".join(f"{place}\n" for place in places))


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += sum(len(turn.content) for turn in example.messages)
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Parquet:
    """The same rows for the hub and for `datasets`, a batch a row group."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        turn = pa.struct([("role", pa.string()), ("content", pa.string())])
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("problem_id", pa.string()),
                ("trace_id", pa.string()),
                ("messages", pa.list_(turn)),
                ("tokens", pa.int64()),
                ("order", pa.int64()),
            ]
        )
        self._path, self._staged = path, path.with_name(path.name + ".tmp")
        self._writer = pq.ParquetWriter(self._staged, self._schema)

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._writer.close()
        if kind is None:
            with self._staged.open("rb") as file:
                os.fsync(file.fileno())
            self._staged.replace(self._path)

    def write(self, batch: Sequence[Example]) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist([row.model_dump() for row in batch], self._schema))
