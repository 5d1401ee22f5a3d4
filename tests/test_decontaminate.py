"""Decontamination finds what is shared, on real benchmarks exactly as often as it is there."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.curate.decontaminate import SHORTEST, WINDOW, HeldOut, Method
from distill.curate.normalize import squeezed, words
from distill.records import Problem

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
SHORT = "one two three four five six seven eight"


def held_out(*prompts: str, method: Method = "13-gram") -> HeldOut:
    return HeldOut(
        [
            Problem(id=f"exam-{number}", kind="open", prompt=prompt, source="x", split="test")
            for number, prompt in enumerate(prompts)
        ],
        method,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\frac{1}{2} OF X_1", ["frac", "1", "2", "of", "x", "1"]),
        ("don't 1,000 3.5", ["don", "t", "1", "000", "3", "5"]),
        ("Éa ½ 二", ["éa", "½", "二"]),
        ("...", []),
    ],
)
def test_words_are_lower_case_runs_of_letters_and_digits(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "how", "span"),
    [
        pytest.param(LONG, "same", LONG, id="the same prompt"),
        pytest.param(LONG.upper().replace(" ", ", "), "same", None, id="the same words in other clothes"),
        pytest.param(f"say {LONG} now", "13-gram", LONG, id="quoted whole"),
        pytest.param(LONG.partition(" ")[2], None, None, id="twelve of thirteen words"),
        pytest.param(LONG.replace("six", "6"), None, None, id="one word changed in the middle"),
    ],
)
def test_a_prompt_shares_thirteen_words_or_nothing(text: str, how: str | None, span: str | None) -> None:
    found = held_out(LONG).in_prompt(text)
    assert [match.how for match in found] == ([how] if how else [])
    assert all(span in (None, match.span) for match in found)


def test_windows_that_overlap_are_one_stretch_and_others_are_apart() -> None:
    exam = held_out(f"{LONG} fourteen fifteen")
    twice = f"a {LONG} fourteen b {LONG} fourteen fifteen c"
    assert [match.span for match in exam.in_trace(twice)] == [f"{LONG} fourteen", f"{LONG} fourteen fifteen"]


def test_a_short_exam_prompt_is_found_inside_a_trace_but_a_very_short_one_only_whole() -> None:
    exam = held_out(SHORT, "2 plus 2")
    assert [match.how for match in exam.in_trace(f"it says: {SHORT}. So")] == ["short prompt"]
    assert exam.in_trace("what is 2 plus 2 ?") == []
    assert [match.how for match in exam.in_prompt("2 plus 2 ?")] == ["same"]


def test_exact_compares_words_and_by_construction_compares_signs_too() -> None:
    assert held_out("3 + 4", method="exact").in_prompt("3 - 4")
    assert not held_out("3 + 4", method="by-construction").in_prompt("3 - 4")
    assert held_out("3 + 4", method="by-construction").in_prompt(" 3  + 4\n")
    for method in ("exact", "by-construction"):
        assert not held_out(LONG, method=method).in_trace(f"a {LONG} b")


WORD = st.sampled_from("abc")


@given(st.lists(WORD, max_size=40), st.lists(WORD, max_size=60))
def test_the_index_finds_exactly_what_comparing_all_windows_finds(exam: list[str], text: list[str]) -> None:
    size = min(WINDOW, len(exam))
    wanted = {tuple(exam[i : i + size]) for i in range(len(exam) - size + 1)} if size >= SHORTEST else set()
    hit = {
        j
        for i in range(len(text) - size + 1)
        if size and tuple(text[i : i + size]) in wanted
        for j in range(i, i + size)
    }
    found = held_out(" ".join(exam)).in_trace(" ".join(text))
    assert sum(len(match.span.split()) for match in found) == len(hit)
    assert all(match.span in " ".join(text) for match in found)


def load(path: Path, key: str) -> list[str]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return [json.loads(line)[key] for line in text.splitlines()]


@pytest.mark.data
@pytest.mark.parametrize(
    ("seen", "exam", "key", "overlaps", "same"),
    [
        pytest.param("math_train.jsonl.gz", "math_test.jsonl.gz", "problem", 589, 10, id="MATH"),
        pytest.param("gsm8k_train.jsonl.gz", "gsm8k_test.jsonl", "question", 3, 0, id="GSM8K"),
    ],
)
def test_the_known_overlaps_of_real_benchmarks_are_found(
    data_dir: Path, seen: str, exam: str, key: str, overlaps: int, same: int
) -> None:
    index = held_out(*load(data_dir / seen, key))
    found = {prompt: index.in_prompt(prompt) for prompt in load(data_dir / exam, key)}
    assert sum(any(len(words(match.span)) >= WINDOW for match in matches) for matches in found.values()) == overlaps
    assert sum(any(match.how == "same" for match in matches) for matches in found.values()) == same


def test_squeezing_keeps_letter_case_and_signs() -> None:
    assert squeezed(" A  +\n b\t") == "A + b"
