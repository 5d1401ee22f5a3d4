"""Layouts: which column of a published set holds what, and how a set is recognized.

Column names are those of the dataset cards on the Hugging Face hub, read in 2025 and 2026:
open-thoughts/OpenThoughts-114k (both configurations), OpenThoughts2-1M and OpenThoughts3-1.2M,
open-r1/OpenR1-Math-220k, simplescaling/s1K and s1K-1.1, GAIR/LIMO; ShareGPT and `messages`
are what most conversational sets use. A set none of them fits is read by the names people
give to such columns, or by an explicit map.

Does not look at meaning: that `answer` of a set is its gold answer is taken from the layout.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from distill.errors import UserError, did_you_mean, shown

Meaning = Literal[
    "prompt",
    "turns",
    "reasoning",
    "text",
    "answer",
    "gold",
    "tests",
    "solution",
    "problem_id",
    "teacher",
    "label",
    "finish",
    "complete",
    "level",
    "subject",
    "temperature",
    "top_p",
    "max_tokens",
]
"""What a column can hold. prompt: the question; turns: a conversation; text: all that was said, thought included;
reasoning and answer: the same in two columns; gold: the right answer; tests: what a
program reads and must print; solution: a worked one; label: whether the
publisher calls it right; finish, complete: whether it ended by itself."""
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
SAID: tuple[Meaning, ...] = ("turns", "text", "reasoning", "answer")
"""Fields of which at least one says what was answered."""

LayoutName = Literal[
    "openr1",
    "openthoughts-metadata",
    "openthoughts3",
    "openthoughts",
    "s1k-1.1",
    "s1k-1.1-gemini",
    "s1k",
    "limo",
    "messages",
    "sharegpt",
    "fields",
]

Columns = Mapping[Meaning, tuple[str, ...]]
"""For each field the columns that may hold it; the first that holds something counts."""

SAMPLE = 100
"""Rows a layout is recognized by."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One published way of laying out traces."""

    name: LayoutName
    marks: tuple[str, ...]
    """Columns that together are found in no other layout above."""
    columns: Columns
    unless: tuple[str, ...] = ()
    """Columns that show it is something else."""
    hint: str = ""
    """What else the user may want to know."""


NAMES: Columns = {
    "prompt": ("question", "problem", "instruction", "query", "prompt", "input"),
    "turns": ("messages", "conversations", "conversation"),
    "reasoning": ("reasoning", "thought", "thinking", "reasoning_content", "thinking_trajectory", "chain_of_thought"),
    "text": ("response", "output", "completion", "generation", "generations", "text", "solution"),
    "answer": ("answer", "attempt", "final", "content"),
    "gold": ("gold", "ground_truth", "expected_answer", "reference_answer", "gold_answer", "target", "answer"),
    "tests": ("test_cases", "input_output"),
    "solution": ("ground_truth_solution", "reference_solution", "solution"),
    "problem_id": ("problem_id", "question_id"),
    "teacher": ("model", "teacher", "generator", "model_name"),
    "label": ("is_correct", "correct", "label", "qwen_grader", "verified", "correctness"),
    "finish": ("finish_reason", "finish_reasons"),
    "level": ("level", "difficulty"),
    "subject": ("subject", "category", "domain", "topic", "problem_type"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_tokens": ("max_tokens",),
}
"""Names people give to such columns, likeliest first."""

_TEXTS = ("response", "output", "completion", "generation", "reasoning", "thought", "thinking", "messages", "model")

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "openr1",
            ("problem", "generations"),
            {
                "prompt": ("problem",),
                "text": ("generations",),
                "gold": ("answer",),
                "solution": ("solution",),
                "label": ("correctness_math_verify", "correctness_llama"),
                "finish": ("finish_reasons",),
                "complete": ("is_reasoning_complete",),
                "subject": ("problem_type",),
            },
        ),
        Layout(
            "openthoughts-metadata",
            ("problem", "deepseek_reasoning", "deepseek_solution"),
            {
                "prompt": ("problem",),
                "reasoning": ("deepseek_reasoning",),
                "answer": ("deepseek_solution",),
                "tests": ("test_cases", "input_output"),
                "solution": ("ground_truth_solution",),
                "subject": ("domain",),
            },
        ),
        Layout(
            "openthoughts3",
            ("conversations", "difficulty", "domain"),
            {"turns": ("conversations",), "level": ("difficulty",), "subject": ("domain",)},
        ),
        Layout("openthoughts", ("system", "conversations"), {"turns": ("conversations",)}),
        Layout(
            "s1k-1.1",
            ("question", "deepseek_thinking_trajectory", "deepseek_attempt"),
            {
                "prompt": ("question",),
                "reasoning": ("deepseek_thinking_trajectory",),
                "answer": ("deepseek_attempt",),
                "solution": ("solution",),
                "label": ("deepseek_grade",),
                "subject": ("cot_type",),
            },
            hint="its gemini_ columns are another teacher's: layout s1k-1.1-gemini, in an import of its own",
        ),
        Layout(
            "s1k-1.1-gemini",
            ("question", "gemini_thinking_trajectory", "gemini_attempt"),
            {
                "prompt": ("question",),
                "reasoning": ("gemini_thinking_trajectory",),
                "answer": ("gemini_attempt",),
                "solution": ("solution",),
                "label": ("gemini_grade",),
                "subject": ("cot_type",),
            },
        ),
        Layout(
            "s1k",
            ("question", "thinking_trajectories", "attempt"),
            {
                "prompt": ("question",),
                "reasoning": ("thinking_trajectories",),
                "answer": ("attempt",),
                "solution": ("solution",),
                "subject": ("cot_type",),
            },
        ),
        Layout(
            "limo",
            ("question", "solution", "answer"),
            {"prompt": ("question",), "text": ("solution",), "gold": ("answer",)},
            unless=_TEXTS,
        ),
        Layout("messages", ("messages",), {"turns": ("messages",)}),
        Layout("sharegpt", ("conversations",), {"turns": ("conversations",)}),
        Layout("fields", (), {}),
    )
}
"""In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was decided about a file, and why."""

    name: str
    columns: Columns
    evidence: tuple[str, ...]


def find_layout(rows: Sequence[Mapping[str, Any]], layout: str, mapped: Mapping[Meaning, str], where: str) -> Found:
    """The columns of a set by its first rows.

    `mapped` overrides single fields, and stands alone when it says what was answered.
    Raises UserError naming the columns there are when nothing fits or a named one is missing.
    """
    present = Counter(key for row in rows for key, value in row.items() if value is not None)
    wanted: dict[Meaning, tuple[str, ...]] = {field: (column,) for field, column in mapped.items() if column}
    for field, (column,) in wanted.items():
        if not any(reach(row, column) is not None for row in rows):
            raise UserError(
                f"{where}: map {field}={column}: no such column in the first {len(rows):,} rows"
                f"{did_you_mean(column, present)}; there are {_listed(present)}"
            )
    if layout == "auto" and any(field in wanted for field in SAID):
        return Found("map", wanted, ("the map names what was said, nothing else was looked at",))
    chosen = LAYOUTS[layout] if layout != "auto" else _recognized(present)
    missing = [column for column in chosen.marks if column not in present]
    if missing:
        raise UserError(
            f"{where}: layout {chosen.name}: no column {', '.join(missing)} in the first {len(rows):,} rows; "
            f"there are {_listed(present)}"
        )
    columns = {**_by_name(chosen, present), **wanted}
    for field in [field for field, column in mapped.items() if not column]:
        columns.pop(field, None)
    if not any(field in columns for field in SAID):
        raise UserError(
            f"{where}: no column looks like an answer; there are {_listed(present)}; "
            "name them: prompt=COLUMN text=COLUMN"
        )
    return Found(chosen.name, columns, tuple(_evidence(chosen, present, len(rows))))


def reach(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; dots reach into what it holds. None when there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _recognized(present: Counter[str]) -> Layout:
    """The first layout whose marks are there; the last one has none."""
    return next(
        layout
        for layout in LAYOUTS.values()
        if all(present[column] for column in layout.marks) and not any(present[column] for column in layout.unless)
    )


def _by_name(layout: Layout, present: Counter[str]) -> dict[Meaning, tuple[str, ...]]:
    """The layout's columns that are there; what it leaves open goes by name, no column twice."""
    columns: dict[Meaning, tuple[str, ...]] = {}
    for field, names in layout.columns.items():
        there = tuple(name for name in names if name in present)
        if there:
            columns[field] = there
    taken = {name for names in columns.values() for name in names}
    for field in MEANINGS:
        if field in columns or (layout.columns and field in ("prompt", *SAID, "solution")):
            continue
        if field == "answer" and ("text" in columns or "reasoning" not in columns):
            continue  # beside a whole text, `answer` is the gold one
        if (field in ("prompt", "text", "reasoning") and "turns" in columns) or (
            field == "text" and "reasoning" in columns and "answer" in present
        ):
            continue
        name = next((name for name in NAMES.get(field, ()) if name in present and name not in taken), None)
        if name is not None:
            columns[field] = (name,)
            taken.add(name)
    return columns


def _evidence(layout: Layout, present: Counter[str], rows: int) -> list[str]:
    found = [f"column {column} in {present[column]:,} of {rows:,} rows" for column in layout.marks]
    lines = found or ["no published layout fits; columns were taken by their names"]
    return [*lines, layout.hint] if layout.hint else lines


def _listed(present: Counter[str]) -> str:
    return ", ".join(shown(name) for name in list(present)[:40]) or "none"
