"""Variants of problems: what stays when words or numbers change, that answers still hold, and what is refused."""

import json
import random
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.benchmarks import GsmRow
from distill.problems.families import FAMILIES, WIDEST, family
from distill.problems.family import split_of
from distill.problems.gsm8k import Gsm8k
from distill.problems.stage import draw
from distill.problems.variants import base_source, original_of, variant_id, variant_source
from distill.problems.vary import VaryConfig, vary
from distill.progress import Progress
from distill.records import Problem
from distill.sampling.oracle import OracleSampler

QUIET = Progress("quiet")


def exam(name: str, level: int = 3, count: int = 20, world: dict[str, object] | None = None) -> list[Problem]:
    return draw(family(name, world), level, "test", count, seed=0).problems


def said(text: str) -> list[str]:
    return [word for word in text.split() if not word.isdigit()]


def digits(text: str) -> list[str]:
    return [word for word in text.split() if word.isdigit()]


@pytest.mark.parametrize("world", ["default", "widest"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_paraphrase_keeps_the_numbers_and_the_answer(name: str, world: str) -> None:
    knobs = WIDEST[name] if world == "widest" else None
    kind, rng = family(name, knobs), random.Random(1)
    changed = 0
    for problem in exam(name, 2, world=knobs):
        other = kind.paraphrase(problem, rng)
        changed += other.prompt != problem.prompt
        assert other.level == problem.level
        if name == "functions":
            assert getattr(other.tests, "check", None) == getattr(problem.tests, "check", "")
        else:
            assert (other.answer, other.solution) == (problem.answer, problem.solution)
    assert changed > 10


@pytest.mark.parametrize("world", ["default", "widest"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_numbers_keep_the_words(name: str, world: str) -> None:
    knobs = WIDEST[name] if world == "widest" else None
    kind, rng = family(name, knobs), random.Random(1)
    changed = 0
    for problem in exam(name, 2, world=knobs):
        other = kind.numbers(problem, rng)
        changed += other.prompt != problem.prompt
        assert [w for w in other.prompt.split() if not w.isdigit()] == [
            w for w in problem.prompt.split() if not w.isdigit()
        ]
        assert other.level == problem.level
        assert digits(kind.worked(other).reasoning) != [] or name == "functions"
    assert changed > 10


def test_a_needle_is_read_from_among_other_things() -> None:
    """Told again from its own sentences, the story gives the answer, and the rest is about other items."""
    for problem in exam("needles", 4, 10):
        *sentences, question = problem.prompt.split(" . ")
        item = question.split()[2]
        mine = [sentence for sentence in sentences if item in sentence.split()]
        assert len(mine) == 1 + 3
        value = int(mine[0].split()[2])
        for sentence in mine[1:]:
            value = value * 2 if "doubles" in sentence else value + _signed(sentence)
        assert str(value) == problem.answer
        assert 4 * 64 <= len(problem.prompt.split()) <= 4 * 64 + 8


def _signed(sentence: str) -> int:
    (number,) = map(int, digits(sentence))
    return number if any(word in sentence for word in ("finds", "buys", "brings")) else -number


def test_the_length_of_a_needles_context_does_not_change_its_steps() -> None:
    short, long = exam("needles", 1, 5), exam("needles", 8, 5)
    assert {len((row.solution or "").split(";")) for row in short + long} == {4}


def test_names_of_variants_lead_back_to_their_originals() -> None:
    assert original_of(variant_id("gsm8k/test/7", "numbers")) == "gsm8k/test/7"
    assert base_source(variant_source("gsm8k", "paraphrase")) == "gsm8k"
    assert (original_of("stories-1-ab"), original_of("a~b"), base_source("my-numbers-set")) == (
        "",
        "",
        "my-numbers-set",
    )


def varied(tmp_path: Path, rows: list[Problem], **keys: object) -> list[Problem]:
    write_jsonl(tmp_path / "exam.jsonl", rows)
    config = VaryConfig.model_validate({"problems": "exam"} | keys)
    vary(tmp_path / "exam.jsonl", tmp_path, config, data=tmp_path, progress=QUIET)
    return read_jsonl(tmp_path / "problems.jsonl", Problem)


def test_originals_stand_with_their_variants_and_all_are_held_out(tmp_path: Path) -> None:
    rows = varied(tmp_path, exam("stories") + exam("functions", 2))
    assert len({row.id for row in rows}) == len({row.prompt for row in rows}) == len(rows)
    assert {row.source for row in rows} == {
        f"{name}{end}" for name in ("stories", "functions") for end in ("", "-paraphrase", "-numbers")
    }
    ids = {row.id for row in rows}
    assert all(split_of(row.prompt) == row.split == "test" for row in rows)
    assert all(original_of(row.id) in ids for row in rows if "~" in row.id)


def test_an_exam_has_the_same_variants_whatever_else_is_in_it(tmp_path: Path) -> None:
    alone = {row.id: row.prompt for row in varied(tmp_path, exam("stories"))}
    among = {row.id: row.prompt for row in varied(tmp_path, exam("expressions") + exam("stories"))}
    assert alone.items() <= among.items()


def test_the_oracle_solves_variants_as_it_solves_the_originals(tmp_path: Path) -> None:
    rows = varied(tmp_path, exam("stories", 2, 4) + exam("needles", 1, 4), variants=["numbers"])
    sampler = OracleSampler(rows)
    for row in rows:
        assert sampler.families[base_source(row.source)].worked(row).answer == row.answer


def test_a_source_without_variants_is_named(tmp_path: Path) -> None:
    row = Problem(id="x", kind="answer", prompt="?", answer="1", source="aime24", split="test")
    with pytest.raises(UserError, match=r"source 'aime24' has no variants; there are those of stories, .* gsm8k"):
        varied(tmp_path, [row])


def question(text: str, answer: str, final: str) -> tuple[GsmRow, Problem]:
    row = GsmRow(id="gsm8k/test/0", question=text, answer=f"{answer}\n#### {final}", final=final)
    return row, Problem(id=row.id, kind="answer", prompt=text, answer=final, source="gsm8k", split="test")


BOXES = "Kim packs 6 boxes of 20 pens and gives 15 away. How many pens are left?"


def test_new_numbers_give_the_answer_the_marks_compute() -> None:
    row, problem = question(BOXES, "<<6*20=120>>120 pens, <<120-15=105>>105 left.", "105")
    for seed in range(20):
        made = Gsm8k([row]).numbers(problem, random.Random(seed))
        assert made is not None
        boxes, pens, away = (int(word) for word in made.prompt.split() if word.isdigit())
        assert made.answer == str(boxes * pens - away)
        assert int(made.answer) > 0
        assert (boxes, pens, away) != (6, 20, 15)
        assert boxes < away < pens  # in the order they had
        assert made.solution is None  # it would speak of the old numbers


@pytest.mark.parametrize(
    ("text", "marks", "final"),
    [
        pytest.param(BOXES, "120 pens, <<120-15=105>>105 left", "105", id="a step without a mark"),
        pytest.param(BOXES, "<<6*20=120>>120, <<120-15=104>>104", "104", id="a mark that is wrong"),
        pytest.param(BOXES, "<<6*20=120>>120, so 105 are left", "105", id="the last step without a mark"),
        pytest.param(
            "On the sixth day 12 more came, and 3 left. How many?", "<<12-3=9>>9", "9", id="counted by an ordinal"
        ),
        pytest.param(
            "2 cost $3, 4 cost $6. What do 8 cost?",
            "<<3/2=1.5>>1.5, <<8*1.5=12>>12",
            "12",
            id="one unused",
        ),
        pytest.param(
            "6 boxes of 20 pens, 90 sold, 30 left over?",
            "<<6*20=120>>, <<30=30>>, <<120-90=30>>30",
            "30",
            id="a bare number",
        ),
        pytest.param(
            "6 boxes of 20 pens, less 9 and 30 more?",
            "<<6*20=120>>, <<20-9=11>>, <<30+9=39>>",
            "39",
            id="a result nobody uses",
        ),
        pytest.param("All of 30% of 50% is what share?", "<<30*50/100=15>>15", "15", id="only shares"),
    ],
)
def test_a_question_whose_answer_would_be_a_guess_gets_no_new_numbers(text: str, marks: str, final: str) -> None:
    row, problem = question(text, marks, final)
    assert Gsm8k([row]).numbers(problem, random.Random(0)) is None


def test_a_number_that_words_may_have_meant_stays() -> None:
    """`2 * 30` may be the 2 shelves or `twice`."""
    text = "Each of 2 shelves holds 30 books and a third one twice as many as one of them. How many do they hold?"
    row, problem = question(text, "<<2*30=60>>60 on the third, <<2*30=60>>60 on the others, <<60+60=120>>120", "120")
    for seed in range(10):
        made = Gsm8k([row]).numbers(problem, random.Random(seed))
        assert made is not None
        shelves, books = digits(made.prompt)
        assert (shelves, made.answer) == ("2", str(4 * int(books)))


def test_the_two_sides_of_a_fence_are_not_a_number_of_the_question() -> None:
    """The marks double each side; the question's 2 is the slats of each foot, and no word says that sides are two."""
    text = "A fence is 15 feet long and 10 feet wide and takes 2 slats a foot. How many slats?"
    row, problem = question(text, "<<2*15=30>>, <<2*10=20>>, <<30+20=50>>, <<2*50=100>>", "100")
    made = Gsm8k([row]).numbers(problem, random.Random(0))
    assert made is not None
    long, wide, slats = digits(made.prompt)
    assert (slats, made.answer) == ("2", str(4 * (int(long) + int(wide))))


def test_a_paraphrase_of_gsm8k_changes_names_alike_and_asks_first() -> None:
    row, problem = question("Tom has 3 pens. Tom buys $2 ink and 40% more pens. How many pens has Tom?", "", "4")
    made = Gsm8k([row]).paraphrase(problem, random.Random(0))
    assert made is not None
    name = made.prompt.removesuffix("?").split("has ")[1].split("?")[0].split()[0]
    assert made.prompt.startswith("The question is: How many pens has ")
    assert "Tom" not in made.prompt
    assert made.prompt.count(name) == 3
    assert "three pens" in made.prompt
    assert "$2 ink and 40% more" in made.prompt
    assert made.answer == problem.answer


@pytest.mark.data
def test_most_of_gsm8k_can_be_put_another_way(data_dir: Path, tmp_path: Path) -> None:
    from distill.problems.benchmarks import load_benchmark

    write_jsonl(tmp_path / "exam.jsonl", load_benchmark("gsm8k", "test", data_dir, 200))
    report = vary(tmp_path / "exam.jsonl", tmp_path, VaryConfig(problems="exam"), data=data_dir, progress=QUIET)
    kinds = [json.loads(line)["source"] for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert kinds.count("gsm8k-numbers") > 90
    assert kinds.count("gsm8k-paraphrase") > 180
    assert report.counts["problems"] == len(kinds)
