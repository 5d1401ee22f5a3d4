"""Examples as token rows, checked before a single step is paid for.

A row that would teach nothing, teach never to stop, lose its thought or be cut is refused here with its file
and line, beside how many more such rows there are (`preflight.row`). What needs the model is looked at later
(`preflight.checks`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.content import file_fingerprint
from distill.curate.curriculum import order_file
from distill.curate.decontaminate import UNCHECKED
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.prompts import END_THINK, THINK, Chat
from distill.records import Example
from distill.runs import MANIFEST, read_manifest
from distill.train.preflight.findings import Faults, Finding
from distill.train.preflight.row import find_fault, has_answer, prompt_fault
from distill.train.preflight.template import install_marks

EXAMPLES = "examples.jsonl"
MARK = "decontaminated"
IGNORED = -100
"""Label of a token that carries no loss, as torch's cross-entropy has it."""
MOST_ANSWERLESS = 0.5
"""Share of rows without an answer from which on a training set is refused; below, they are counted."""


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
    places: list[str]
    """File, line and example of each row, for whoever has to mend it."""
    told: tuple[Finding, ...] = ()
    """What was looked at while they were read."""
    ordered: bool = True
    """Whether anything says which row is easier than another."""

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
    if chat.end_id is None:
        raise UserError(
            f"{path}: eos_token: the tokenizer of this model has none, so that no row could teach it to stop; set it "
            "in tokenizer_config.json to the end-of-turn token of the chat template"
        )
    places = sorted(range(len(examples)), key=lambda index: examples[index].order)
    if order is not None:
        places = _places(path, order, places)
    template = install_marks(chat.tokenizer, [example.messages for example in examples], path)
    token_ids, labels, kept, thoughts, named, faults = [], [], [], [], [], Faults()
    dropped, roles, end_think = 0, set(), chat.end_think
    for index in places:
        example, where = examples[index], f"{path}:{index + 1}: example {examples[index].id}"
        if example.order < 0:
            faults.add(
                "order", where, index + 1, f"order {example.order}, expected its place in the curriculum, 0 first"
            )
        ids, mask = chat.training_ids(example.messages)
        if len(ids) > max_length:
            dropped += 1
            if on_long == "refuse":
                faults.add(
                    "length",
                    where,
                    index + 1,
                    f"{len(ids)} tokens, max_length is {max_length}; "
                    "raise it, or set on_long = 'drop' to leave such rows out (they are never cut)",
                )
            continue
        fault = find_fault(ids, mask, example.messages, chat, vocab_size)
        spoken = tuple(message.role for message in example.messages)
        if fault is None and spoken not in roles:
            roles.add(spoken)
            fault = prompt_fault(mask, example.messages, chat)
        if fault is not None:
            faults.add(fault.kind, where, index + 1, fault.complaint)
            continue
        token_ids.append(ids)
        kept.append(examples[index].id)
        thoughts.append(_thought(example, ids, mask, chat, end_think))
        labels.append([token if loss else IGNORED for token, loss in zip(ids, mask, strict=True)])
        named.append(where)
    if faults.message:
        raise UserError(faults.message)
    if not token_ids:
        raise UserError(f"{path}: all {dropped} examples are longer than max_length {max_length}")
    ordered = order is not None or len(examples) == 1 or len({example.order for example in examples}) > 1
    told = (_kept_apart(data), template, _answers(path, examples, chat))
    return Rows(token_ids, labels, dropped, kept, thoughts, named, told, ordered)


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


def _kept_apart(data: Path) -> Finding:
    """How the training set says it was kept from the benchmarks, and sources it names that gave nothing."""
    marks = read_manifest(data).report.marks if (data / MANIFEST).is_file() else {}
    mark = marks.get(MARK)
    if not isinstance(mark, dict | str):
        return Finding("contamination", "never compared with the benchmarks (allow_contaminated)", look=True)
    kept = mark if isinstance(mark, str) else f"{mark.get('method')}, {mark.get('removed')} removed"
    empty = [str(source["name"]) for source in marks.get("sources", ()) if source.get("traces") == 0]
    gave = f"; sources without a trace: {', '.join(empty)}" if empty else ""
    return Finding("contamination", f"{kept}{gave}", look=bool(empty) or mark == UNCHECKED)


def _answers(path: Path, examples: Sequence[Example], chat: Chat) -> Finding:
    """How many examples say no more than a thought. UserError when they are the most."""
    think_open = chat.think_open
    lines = [
        number
        for number, example in enumerate(examples, 1)
        if not has_answer(example.messages, think_open=think_open and THINK not in example.messages[-1].content)
    ]
    if len(lines) > MOST_ANSWERLESS * len(examples):
        raise UserError(
            f"{path}:{lines[0]}: {len(lines):,} of {len(examples):,} examples have no answer behind their thought, "
            "and a model would learn to give none; leave them out (keep = 'verified' in curate does)"
        )
    told = f", the first on line {lines[0]}" if lines else ""
    return Finding("answers", f"{len(lines):,} of {len(examples):,} examples have none{told}", look=bool(lines))


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
