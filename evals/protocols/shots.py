"""Shots: the worked examples of a protocol, read from the user's own files and checked against its hash.

Their text is never part of the toolkit. `drawn` ones follow the harness: Python's generator, seeded once, draws as
many rows of the training split for the first test problem, then for the second, and so on; so a problem's examples
hang on its place in the test file alone, and a bench of part of the problems shows each its own.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.errors import UserError
from distill.problems.benchmarks import benchmark_rows, data_file
from distill.records import Problem
from evals.protocols.protocol import Shots

FIRST_TESTS = 3
"""Tests of an MBPP task that are shown and run, a line each."""
FIELD = re.compile(r"\{(\w+)\}")
Before = Callable[[Problem], str]
"""What stands before a problem's question."""


def fill(template: str, fields: Mapping[str, object]) -> str:
    """A template with its fields; other braces stay, and nothing that is filled in is read again."""
    return FIELD.sub(lambda found: str(fields.get(found[1], found[0])), template)


def tests_of(tests: Sequence[str]) -> str:
    """The tests of an MBPP task as the harness shows them."""
    return "\n".join(tests[:FIRST_TESTS])


def before(shots: Shots | None, data: Path) -> Before:
    """Reads the files. Raises UserError when one is missing or holds other examples than the protocol's."""
    if shots is None:
        return lambda problem: ""
    if shots.origin == "drawn":
        return _drawn(shots, data)
    examples = _named(shots, data) if shots.origin == "rows" else _filed(shots, data)
    text = "".join(fill(shots.example, example) for example in examples[: shots.n])
    _check(shots, text.encode(), f"the {shots.benchmark or shots.file} examples")
    return lambda problem: text


def shot_files(shots: Shots | None, data: Path) -> list[Path]:
    """The files `before` reads, for fingerprints; UserError when one is missing."""
    from distill.problems.benchmarks import benchmark_files

    if shots is None:
        return []
    if shots.origin == "file":
        return [data_file(data, shots.file)]
    splits = ("train", "test") if shots.origin == "drawn" else ("train",)
    return [file for split in splits for file in benchmark_files(shots.benchmark, split, data)]


def _drawn(shots: Shots, data: Path) -> Before:
    pool = benchmark_rows(shots.benchmark, "train", data)
    places = {row.id: place for place, row in enumerate(benchmark_rows(shots.benchmark, "test", data))}
    content = json.dumps([[row.question, row.answer] for row in pool], ensure_ascii=False)
    _check(shots, content.encode(), f"the training split of {shots.benchmark}")
    rng = random.Random(shots.seed)
    drawn = [rng.sample(range(len(pool)), shots.n) for _ in places]

    def text(problem: Problem) -> str:
        if problem.id not in places:
            raise UserError(
                f"problem {problem.id!r}: not in the test file of {shots.benchmark}, which says its examples"
            )
        return "".join(fill(shots.example, pool[row].model_dump()) for row in drawn[places[problem.id]])

    return text


def _named(shots: Shots, data: Path) -> list[dict[str, Any]]:
    rows = {_key(row): row for row in benchmark_rows(shots.benchmark, "train", data)}
    examples = []
    for name in shots.rows:
        if name not in rows:
            raise UserError(f"benchmark {shots.benchmark}: no row {name!r}, a worked example of the protocol")
        row = rows[name].model_dump()
        if "test_list" in row:
            row["tests"] = tests_of(row["test_list"])
        for of, old, new in shots.edits:
            if of == name:
                row = {key: value.replace(old, new) if isinstance(value, str) else value for key, value in row.items()}
        examples.append(row)
    return examples


def _key(row: Any) -> str:
    return str(row.id if hasattr(row, "id") else row.task_id)


def _filed(shots: Shots, data: Path) -> list[dict[str, Any]]:
    path = data_file(data, shots.file)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["fewshot_config"]["samples"]
        return [{"question": row["question"], "target": row["target"]} for row in found]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected lm-evaluation-harness's task file with fewshot_config.samples ({type(error).__name__})"
        ) from error


def _check(shots: Shots, content: bytes, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != shots.sha256:
        raise UserError(f"{what}: other text than the protocol's (SHA-256 {found[:16]}, expected {shots.sha256[:16]})")
