"""The problems stage: one exam for all seeds, no prompt twice, a space that runs out says so."""

import pytest
from pydantic import ValidationError

from distill.jsonl import read_jsonl
from distill.problems.families import FAMILIES, family
from distill.problems.stage import ProblemsConfig, draw, problems
from distill.progress import Progress
from distill.records import Problem

QUIET = Progress("quiet")


def config(**families):
    return ProblemsConfig.model_validate({"families": families})


SMALL = config(
    stories={"levels": [1, 3], "train": [50, 20], "test": 15},
    functions={"levels": [2], "train": 30, "test": 10},
)


def write(tmp_path, name, config, seed):
    out = tmp_path / name
    out.mkdir()
    report = problems(out, config, data=tmp_path, seed=seed, progress=QUIET)
    return read_jsonl(out / "problems.jsonl", Problem), report


def test_every_level_gets_its_counts(tmp_path):
    rows, report = write(tmp_path, "a", SMALL, 0)
    counted = {}
    for row in rows:
        counted[row.source, row.level, row.split] = counted.get((row.source, row.level, row.split), 0) + 1
    assert counted == {
        ("stories", 1, "train"): 50,
        ("stories", 1, "test"): 15,
        ("stories", 3, "train"): 20,
        ("stories", 3, "test"): 15,
        ("functions", 2, "train"): 30,
        ("functions", 2, "test"): 10,
    }
    assert report.counts == {"problems": 140, "train": 100, "test": 40}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    write(tmp_path, "a", SMALL, 7)
    write(tmp_path, "b", SMALL, 7)
    assert (tmp_path / "a/problems.jsonl").read_bytes() == (tmp_path / "b/problems.jsonl").read_bytes()


def test_two_seeds_share_the_exam_and_not_the_training(tmp_path):
    def split(rows, name):
        return [row for row in rows if row.split == name]

    first, _ = write(tmp_path, "a", SMALL, 0)
    second, _ = write(tmp_path, "b", SMALL, 1)
    assert split(first, "test") == split(second, "test")
    assert split(first, "train") != split(second, "train")


def test_no_training_prompt_of_any_seed_is_in_the_exam(tmp_path):
    exam = {row.prompt for row in write(tmp_path, "exam", SMALL, 0)[0] if row.split == "test"}
    for seed in range(5):
        rows, _ = write(tmp_path, str(seed), SMALL, seed)
        assert not exam & {row.prompt for row in rows if row.split == "train"}
        assert len({row.prompt for row in rows}) == len(rows)


def test_a_longer_exam_begins_with_the_shorter_one():
    kind = family("stories")
    assert draw(kind, 2, "test", 30, seed=0).problems[:10] == draw(kind, 2, "test", 10, seed=3).problems


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_even_the_smallest_spaces_hold_an_exam_of_500(name, level):
    assert len(draw(family(name), level, "test", 500, seed=0).problems) == 500


def test_a_space_that_runs_out_gives_all_it_has_and_says_so(tmp_path):
    world = {"names": 1, "variables": 1, "intros": 1, "phrasings": 1, "operations": ["add"]}
    rows, report = write(tmp_path, "a", config(functions={"levels": [1], "train": 100, "test": 100, "world": world}), 0)
    assert len(rows) == 9  # add 1 .. add 9
    assert any("only" in line and "100 wanted" in line for line in report.lines)


def test_zero_test_problems_are_allowed(tmp_path):
    rows, _ = write(tmp_path, "a", config(stories={"levels": [1], "train": 3, "test": 0}), 0)
    assert {row.split for row in rows} == {"train"}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "either families or benchmark"),
        (
            {"families": {"stories": {"levels": [1], "train": 1, "test": 1}}, "benchmark": "gsm8k"},
            "either families or benchmark",
        ),
        ({"families": {"stories": {"levels": [1, 2], "train": [5], "test": 1}}}, "train: 2 levels need as many"),
        ({"families": {"stories": {"levels": [1, 1], "train": 5, "test": 1}}}, "each level once"),
        ({"families": {"stories": {"levels": [], "train": 5, "test": 1}}}, "levels"),
        ({"families": {"stories": {"levels": [0], "train": 5, "test": 1}}}, "levels"),
        ({"families": {"storys": {"levels": [1], "train": 5, "test": 1}}}, "did you mean stories"),
        (
            {"families": {"stories": {"levels": [1], "train": 5, "test": 1, "world": {"name": 3}}}},
            "did you mean names",
        ),
        ({"families": {"stories": {"levels": [1], "train": 5, "test": 1}}, "limit": 4}, "limit"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_when_read(table, told):
    with pytest.raises(ValidationError, match=told):
        ProblemsConfig.model_validate(table)


@pytest.mark.data
def test_a_benchmark_is_read_from_the_data_directory(tmp_path, data_dir):
    table = ProblemsConfig.model_validate({"benchmark": "gsm8k", "split": "test", "limit": 5})
    out = tmp_path / "out"
    out.mkdir()
    report = problems(out, table, data=data_dir, seed=0, progress=QUIET)
    rows = read_jsonl(out / "problems.jsonl", Problem)
    assert len(rows) == 5 == report.counts["test"]
    assert {row.source for row in rows} == {"gsm8k"}
