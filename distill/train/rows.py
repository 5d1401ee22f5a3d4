"""Examples as token rows, checked before a single step is paid for.

A row that would teach nothing, teach never to stop, or be cut is refused here with its file
and line. Wider checks of a whole training set (BOS doubled, share of each source) are not
made here.
"""

from dataclasses import dataclass
from pathlib import Path

from distill.content import file_fingerprint
from distill.curate.curriculum import order_file
from distill.curate.decontaminate import UNCHECKED
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.prompts import END_THINK, Chat
from distill.records import Example
from distill.runs import MANIFEST, read_manifest

EXAMPLES = "examples.jsonl"
MARK = "decontaminated"
IGNORED = -100
"""Label of a token that carries no loss, as torch's cross-entropy has it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokenized examples in curriculum order."""

    token_ids: list[list[int]]
    labels: list[list[int]]
    """Token ids where there is loss, `IGNORED` elsewhere."""
    dropped: int
    """Examples left out for their length."""
    examples: list[str]
    """Id of each row's example."""
    thoughts: list[tuple[int, int]]
    """Where the thought of each row's last turn begins, and where its answer does; 0, 0 for one without."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.token_ids]


def check_decontaminated(data: Path, allow: bool) -> str:
    """Fingerprint of a training set; UserError when nobody compared it with the benchmarks."""
    manifest = read_manifest(data) if (data / MANIFEST).is_file() else None
    if not allow and manifest is not None and manifest.report.marks.get(MARK) == UNCHECKED:
        raise UserError(
            f"{data / MANIFEST}: these examples were curated unchecked, so benchmark problems may be among them; "
            "check them, or set allow_contaminated = true"
        )
    if not allow and (manifest is None or MARK not in manifest.report.marks):
        where = f"{data / MANIFEST}: report.marks.{MARK}" if manifest else f"{data / MANIFEST}"
        raise UserError(
            f"{where}: missing, so benchmark problems may be among these examples; "
            "curate them against the benchmarks, or set allow_contaminated = true"
        )
    return manifest.fingerprint if manifest else file_fingerprint(data)


def read_rows(data: Path, chat: Chat, vocab_size: int, max_length: int, on_long: str, order: str | None = None) -> Rows:
    """Tokenize `examples.jsonl` of a run folder (or a file of examples). Raises UserError naming the line.

    `order` names one of the orders beside the examples; None takes the one they have.
    """
    path = data / EXAMPLES if data.is_dir() else data
    examples = read_jsonl(path, Example)
    if not examples:
        raise UserError(f"{path}: no examples to train on")
    places = sorted(range(len(examples)), key=lambda index: examples[index].order)
    if order is not None:
        places = _places(path, order, places)
    token_ids, labels, kept, thoughts, dropped = [], [], [], [], 0
    end_think = chat.end_think
    for index in places:
        example, where = examples[index], f"{path}:{index + 1}: example {examples[index].id}"
        ids, mask = chat.training_ids(example.messages)
        if len(ids) > max_length:
            if on_long == "refuse":
                raise UserError(
                    f"{where}: {len(ids)} tokens, max_length is {max_length}; "
                    "raise it, or set on_long = 'drop' to leave such rows out (they are never cut)"
                )
            dropped += 1
            continue
        _check_row(where, ids, mask, chat, vocab_size)
        token_ids.append(ids)
        kept.append(examples[index].id)
        thoughts.append(_thought(example, ids, mask, chat, end_think))
        labels.append([token if loss else IGNORED for token, loss in zip(ids, mask, strict=True)])
    if not token_ids:
        raise UserError(f"{path}: all {dropped} examples are longer than max_length {max_length}")
    return Rows(token_ids, labels, dropped, kept, thoughts)


def _thought(example: Example, ids: list[int], mask: list[int], chat: Chat, end_think: int | None) -> tuple[int, int]:
    """Where the thought of the last turn begins and where the answer behind it does. `end_think`: its closing token."""
    if END_THINK not in example.messages[-1].content:
        return 0, 0
    if end_think is None:  # spelled by several tokens, which may hold what stands beside it too
        turn = chat.turn(example.messages)
        end = turn.text.index(END_THINK) + len(END_THINK)
        return turn.first, turn.first + sum(last < end for last in turn.last_characters)
    last = len(mask) - 1 - mask[::-1].index(1)
    first = last
    while first and mask[first - 1]:
        first -= 1
    return first, ids.index(end_think, first) + 1


def _places(path: Path, order: str, standing: list[int]) -> list[int]:
    """Indexes of the examples in another order, from the file curate wrote it to: places in the order they stand."""
    index = path.parent / order_file(order)
    if not index.is_file():
        written = sorted(found.stem.removeprefix("order-") for found in path.parent.glob(order_file("*")))
        raise UserError(
            f"{index}: no such order; there are {', '.join(written) or 'none'} besides the one the examples have "
            "(curate writes those named in its `orders`)"
        )
    lines = index.read_text(encoding="utf-8").split()
    if set(lines) != {str(place) for place in range(len(standing))} or len(lines) != len(standing):
        raise UserError(f"{index}: expected each number from 0 to {len(standing) - 1} once, one a line")
    return [standing[int(place)] for place in lines]


def _check_row(where: str, ids: list[int], mask: list[int], chat: Chat, vocab_size: int) -> None:
    if not any(mask):
        raise UserError(
            f"{where}: no token carries loss; the chat template needs {{% generation %}} around assistant turns"
        )
    if max(ids) >= vocab_size:
        raise UserError(
            f"{where}: token id {max(ids)} is outside the model's vocabulary of {vocab_size}; "
            "this tokenizer is not this model's"
        )
    last = max(index for index, loss in enumerate(mask) if loss)
    if ids[last] != chat.end_id:
        raise UserError(
            f"{where}: the last token with loss is {ids[last]} ({chat.tokenizer.decode([ids[last]])!r}), expected the "
            f"end-of-turn token {chat.end_id}; a model trained so never stops (put it inside {{% generation %}})"
        )
