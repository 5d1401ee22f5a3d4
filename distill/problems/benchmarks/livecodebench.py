"""LiveCodeBench v6: contest problems of early 2025, by program (Jain et al. 2024, arXiv:2403.07974).

Reads `test6.jsonl` of code_generation_lite, the 175 problems that v6 added, saved as `livecodebench_v6.jsonl`. The
prompt is the statement, then the starter code where the problem has some (a method of `Solution`, LeetCode), else that
the program reads from standard input and prints (AtCoder, Codeforces). Hidden tests come as a pickled string: the text
is taken out of it without unpickling. Not among the files the toolkit was tested on.

What is not covered: LiveCodeBench's own prompt wording and its limits (6 seconds a test; ours are those of the judge).
"""

import base64
import binascii
import json
import pickletools
import zlib

from pydantic import Field, field_validator

from distill.problems.benchmarks.benchmark import R1_HOW, R1_PAPER, Benchmark, Row, Split, from_report
from distill.records import Exchange, Problem, Tests

STARTER = "Complete this program:"
STDIN = "The program reads from standard input and prints its answer, nothing else."
IMPORTS = "\n".join(f"from {module} import *" for module in ("typing", "collections", "functools", "itertools", "math"))
"""What LeetCode's starter code takes for granted."""
LARGEST = 1 << 30
"""Bytes one problem's tests may unpack to."""


class Case(Row):
    """One test: standard input and output, or JSON arguments a line and the JSON result."""

    input: str
    output: str
    testtype: str


class LiveCodeRow(Row):
    """A problem with open tests and packed hidden ones."""

    question_id: str
    question_content: str
    platform: str | None = None
    difficulty: str | None = None
    starter_code: str = ""
    public: tuple[Case, ...] = Field(validation_alias="public_test_cases")
    private: tuple[Case, ...] = Field(validation_alias="private_test_cases")
    method: str | None = Field(default=None, validation_alias="metadata")

    @field_validator("public", "private", mode="before")
    @classmethod
    def _unpacked(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return json.loads(value if value.lstrip()[:1] == "[" else _text_within(value))

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return json.loads(value).get("func_name") if isinstance(value, str) else value


def _text_within(packed: str) -> str:
    """The one string of a pickle, compressed and in base64. Raises ValueError for anything else; nothing is loaded."""
    try:
        unpacker = zlib.decompressobj()
        pickled = unpacker.decompress(base64.b64decode(packed, validate=True), LARGEST)
        if not unpacker.eof:
            raise ValueError(f"private_test_cases: more than {LARGEST:,} bytes, or cut short")
        texts = [argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)]
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private_test_cases: neither JSON nor zlib in base64 ({error})") from error
    if len(texts) != 1:
        raise ValueError(f"private_test_cases: a pickle of {len(texts)} texts, expected one")
    return texts[0]


def _problem(name: str, split: Split, row: LiveCodeRow) -> Problem:
    how = f"{STARTER}\n```python\n{row.starter_code}\n```" if row.starter_code else STDIN
    cases = (*row.public, *row.private)
    if row.method is None:
        exchanges = tuple(Exchange(stdin=case.input, stdout=case.output) for case in cases)
        tests = Tests(entry_point="", check=exchanges)
    else:
        calls = tuple(_call(row.method, case) for case in cases)
        tests = Tests(entry_point="", check=calls, setup=IMPORTS)
    return Problem(
        id=f"{name}/{row.question_id}",
        kind="code",
        prompt=f"{row.question_content.strip()}\n\n{how}",
        tests=tests,
        source=name,
        split=split,
        subject=row.difficulty,
    )


def _call(method: str, case: Case) -> str:
    arguments = ", ".join(repr(json.loads(line)) for line in case.input.split("\n"))
    return f"assert Solution().{method}({arguments}) == {json.loads(case.output)!r}"


LIVECODEBENCH_V6 = Benchmark(
    {"test": "livecodebench_v6.jsonl"},
    LiveCodeRow,
    _problem,
    paper="Jain et al. 2024, arXiv:2403.07974",
    license="as the contests' own terms say",
    origin="huggingface.co/datasets/livecodebench/code_generation_lite, test6.jsonl",
    published=from_report(
        R1_PAPER,
        f"{R1_HOW}; an older window (August 2024 to January 2025), not v6",
        {"DeepSeek-R1-Distill-Qwen-1.5B": 16.9, "DeepSeek-R1-Distill-Qwen-7B": 37.6},
    ),
)
