"""Decontamination finds what is shared, on real benchmarks exactly as often as it is there."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from distill.curate.decontaminate import (
    SHORTEST,
    WINDOW,
    HeldOut,
    Match,
    Method,
    Shared,
    Variants,
    check_told_twice,
    dropping,
)
from distill.curate.held_out import benchmark_test_files, benchmark_tests
from distill.curate.normalize import squeezed, words
from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.family import split_of
from distill.records import Problem

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
SHORT = "one two three four five six seven eight"


def exam(number: int, prompt: str, source: str = "x") -> Problem:
    return Problem(id=f"exam-{number}", kind="open", prompt=prompt, source=source, split="test")


def held_out(*prompts: str, method: Method = "13-gram", near: Variants = "drop") -> HeldOut:
    return HeldOut([exam(number, prompt) for number, prompt in enumerate(prompts)], method, near=near)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\frac{1}{2} OF X_1", ["frac", "1", "2", "of", "x", "1"]),
        ("don't 1,000 3.5", ["don", "t", "1", "000", "3", "5"]),
        ("Éa ½ 二三", ["éa", "1", "2", "二", "三"]),
        ("ｗｉｄｅ３ ﬁne x²", ["wide3", "fine", "x", "2"]),
        ("so\u00adft ze\u200bro \u202eway\u202c\ufeff", ["soft", "zero", "way"]),
        ("x &gt; 4&nbsp;m, don&#39;t A&B; &c", ["x", "4", "m", "don", "t", "a", "b", "c"]),
        ("...", []),
    ],
)
def test_words_are_lower_case_runs_of_letters_and_digits_as_they_look(text: str, expected: list[str]) -> None:
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
    index = held_out(f"{LONG} fourteen fifteen")
    twice = f"a {LONG} fourteen b {LONG} fourteen fifteen c"
    assert [match.span for match in index.in_trace(twice)] == [f"{LONG} fourteen", f"{LONG} fourteen fifteen"]


def test_a_short_exam_prompt_is_found_inside_a_trace_but_a_very_short_one_only_whole() -> None:
    index = held_out(SHORT, "2 plus 2")
    assert [match.how for match in index.in_trace(f"it says: {SHORT}. So")] == ["short prompt"]
    assert index.in_trace("what is 2 plus 2 ?") == []
    assert [match.how for match in index.in_prompt("2 plus 2 ?")] == ["same"]


AREA = "find the area of the large shaded region in red"
BEANS = "Ann has 12 beans and eats 5 of them. How many beans are left?"


@pytest.mark.parametrize(
    ("prompt", "how", "drops"),
    [
        pytest.param(AREA.replace("large", "whole"), "near", True, id="a word changed"),
        pytest.param(AREA.replace("large ", ""), "near", True, id="a word left out"),
        pytest.param(AREA.replace("area", "exact area"), "near", True, id="a word added"),
        pytest.param(f"see below {AREA.replace('in red', 'in blue')} now", "near", True, id="within a longer prompt"),
        pytest.param(AREA.replace("large shaded", "small white"), None, None, id="two words changed"),
        pytest.param("solve for x", None, None, id="a very short one with a word changed"),
        pytest.param(BEANS.replace("12", "1,200").replace("5", "7"), "numbers-changed", False, id="other numbers"),
        pytest.param(BEANS.replace("12", "Twenty-two"), "numbers-changed", False, id="other numbers in words"),
        pytest.param(BEANS.replace("beans", "peas"), None, None, id="other words"),
        pytest.param("what is 3 + 4", None, None, id="nothing but numbers"),
    ],
)
def test_short_prompts_are_found_nearly_said_and_all_with_other_numbers(
    prompt: str, how: str | None, drops: bool | None
) -> None:
    found = held_out(AREA, "solve for y", BEANS, "what is 5 + 6").in_prompt(prompt)
    assert [(match.how, match.drops) for match in found] == ([(how, drops)] if how else [])
    assert (dropping(found) is not None) == bool(drops)


@pytest.mark.parametrize("place", range(len(AREA.split())), ids=AREA.split())
def test_a_trace_that_quotes_a_short_prompt_with_any_one_word_changed_is_found(place: int) -> None:
    said = AREA.split()
    for changed in (["other"], [], ["other", said[place]]):
        quoted = " ".join([*said[:place], *changed, *said[place + 1 :]])
        (found,) = held_out(AREA).in_trace(f"so i am to {quoted} and begin")
        assert (found.how, found.against_id) == ("near" if place or changed[1:] == [] else "short prompt", "exam-0")
    if place not in (0, len(said) - 1):
        numbered = " ".join([*said[:place], "7", *said[place + 1 :]])
        assert held_out(AREA).in_trace(numbered) == []


def test_variants_are_listed_dropped_or_left_alone_as_the_keys_say() -> None:
    changed = BEANS.replace("12", "13")
    for variants, expected in (("drop", [True]), ("flag", [False]), ("off", [])):
        index = HeldOut([exam(0, BEANS), exam(1, AREA)], "13-gram", near=variants, numbers_changed=variants)
        assert [match.drops for match in index.in_prompt(changed)] == expected
        assert [match.drops for match in index.in_trace(AREA.replace("large", "whole"))] == expected


def test_a_stretch_names_every_held_out_problem_it_meets() -> None:
    (found,) = held_out(f"a {LONG}", f"{LONG} b", LONG).in_trace(f"a {LONG} b")
    assert {found.against_id, *found.also} == {"exam-0", "exam-1", "exam-2"}
    (same,) = held_out(LONG, LONG).in_prompt(LONG)
    assert (same.against_id, same.also) == ("exam-0", ("exam-1",))


def test_procedural_problems_are_compared_whole_where_the_hash_of_their_prompt_bears_it_out() -> None:
    prompts = [f"{LONG} {number}" for number in range(60)]
    there = next(prompt for prompt in prompts if split_of(prompt) == "test")
    elsewhere = next(prompt for prompt in prompts if split_of(prompt) == "train")
    index = HeldOut([exam(0, there, "stories"), exam(1, AREA)], "13-gram")
    assert index.in_prompt(f"{LONG} 1000") == []
    assert [match.how for match in index.in_prompt(f" {there}\n")] == ["same"]
    assert index.in_trace(f"it says {AREA}")
    claimed = HeldOut([exam(0, elsewhere, "stories")], "13-gram")
    assert [match.how for match in claimed.in_prompt(f"{LONG} 1000")] == ["numbers-changed"] or claimed.in_prompt(LONG)


def test_a_set_that_is_not_checked_has_to_be_asked_for_twice() -> None:
    check_told_twice("none", accept_unchecked=True)
    check_told_twice("13-gram", accept_unchecked=False)
    with pytest.raises(ValueError, match="set accept_unchecked = true as well"):
        check_told_twice("none", accept_unchecked=False)
    with pytest.raises(ValueError, match="this set is checked"):
        check_told_twice("exact", accept_unchecked=True)
    assert held_out(LONG, method="none").in_prompt(LONG) == held_out(LONG, method="none").in_trace(LONG) == []


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
    found = held_out(" ".join(exam), near="off").in_trace(" ".join(text))
    assert sum(len(match.span.split()) for match in found) == len(hit)
    assert all(match.span in " ".join(text) for match in found)


def words_of(match: Shared) -> int:
    """Words in a row that are shared."""
    return len(words(match.span)) if match.how in ("same", "13-gram") else 0


def load(path: Path, key: str) -> list[str]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return [json.loads(line)[key] for line in text.splitlines()]


def test_the_command_counts_held_out_problems_and_writes_every_match(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "exam.jsonl", [exam(0, f"{LONG} now"), exam(1, AREA), exam(2, BEANS)])
    seen = [LONG, f"then {LONG} now", AREA.replace("large", "whole"), BEANS.replace("12", "9"), "else"]
    train = [exam(number, prompt).model_copy(update={"split": "train"}) for number, prompt in enumerate(seen)]
    write_jsonl(tmp_path / "train.jsonl", train)
    out = tmp_path / "matches.jsonl"
    words_ = ["decontaminate", tmp_path / "train.jsonl", "--against", tmp_path / "exam.jsonl", "--out", out]
    said = CliRunner().invoke(app, [str(word) for word in words_])
    assert said.exit_code == 0, said.output
    table = [line.split() for line in said.output.splitlines()]
    assert ["x", "3", "0", "1", "0", "1", "1", "2"] in table
    assert [str(tmp_path / "train.jsonl"), "5", "3", "1", "0", "0", "0"] in table
    assert [(match.how, match.drops) for match in read_jsonl(out, Match)] == [
        ("13-gram", True),
        ("13-gram", True),
        ("near", True),
        ("numbers-changed", False),
    ]


def test_all_benchmarks_are_those_whose_files_are_there_and_the_others_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no test file of any benchmark"):
        benchmark_tests(tmp_path)
    row = {"id": "g1", "question": LONG, "answer": "#### 1", "final": "1"}
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps(row))
    exams = benchmark_tests(tmp_path)
    assert [problem.id for problem in exams.problems] == ["g1"]
    assert "math" in exams.missing
    assert "gsm8k" not in exams.missing
    assert benchmark_test_files(tmp_path) == [tmp_path / "gsm8k_test.jsonl"]
    with pytest.raises(UserError, match=r"math_test\.jsonl: no such file"):
        benchmark_tests(tmp_path, ["math"])
    with pytest.raises(UserError, match="no test split to check against"):
        benchmark_tests(tmp_path, ["gsm8k_traced"])


@pytest.mark.data
def test_one_command_counts_the_known_overlaps_of_real_benchmarks(data_dir: Path) -> None:
    names = ["math:train", "gsm8k:train", "--against", "math", "--against", "gsm8k", "--data", str(data_dir)]
    said = CliRunner().invoke(app, ["decontaminate", *names])
    assert said.exit_code == 0, said.output
    table = [line.split() for line in said.output.splitlines()]
    assert ["math", "5,000", "10", "589", "0", "3", "183", "593"] in table
    assert ["gsm8k", "1,319", "0", "3", "0", "0", "0", "3"] in table


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
    assert sum(any(words_of(match) >= WINDOW for match in matches) for matches in found.values()) == overlaps
    assert sum(any(match.how == "same" for match in matches) for matches in found.values()) == same


def test_squeezing_keeps_letter_case_and_signs() -> None:
    assert squeezed(" A  +\n b\t") == "A + b"
