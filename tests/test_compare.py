from pathlib import Path
from typing import Any

import pytest

from cli.compare_command import compare as command
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.records import Item, Score, Status
from evals.compare import chosen, compare, sides, told
from evals.scoring import group, score


def items(checkpoint: str, right: set[int], n: int = 20, **more: Any) -> list[Item]:
    def one(i: int) -> Item:
        status: Status = "correct" if i in right else "wrong"
        row = {"checkpoint": checkpoint, "problem_id": f"p{i}", "sample_index": 0, "status": status, "tokens": 5}
        return Item.model_validate(row | {"trace_id": f"t{i}", "task": "stories", "level": 1 + i % 2} | more)

    return [one(i) for i in range(n)]


def bench(folder: Path, *rows: list[Item], protocol: str = "greedy@1") -> Path:
    folder.mkdir(parents=True)
    write_jsonl(folder / "items.jsonl", (item for mine in rows for item in mine))
    scores: list[Score] = []
    for mine in rows:
        scores += score(group(mine), mine[0].checkpoint, "f", protocol, [1], contamination="unchecked: x")
    write_jsonl(folder / "scores.jsonl", scores)
    return folder


def test_checkpoints_of_two_benches_are_paired_problem_by_problem(tmp_path: Path) -> None:
    a = bench(tmp_path / "s0" / "bench", items("student", set(range(12))))
    b = bench(tmp_path / "s1" / "bench", list(reversed(items("student", set(range(2, 10))))))
    ((left, right),) = chosen(a, b, None, None)
    found = compare(left, right, 0.03)
    whole = found.rows[0]
    assert (whole.task, whole.better, whole.worse, whole.n) == ("all", 4, 0, 20)
    assert (whole.difference, whole.p_mcnemar) == (pytest.approx(0.2), 0.125)
    assert found.values["all"] == (0.6, 0.4)
    assert {flip.problem_id for flip in found.flips} == {"p0", "p1", "p10", "p11"}
    assert [row.task for row in found.rows[:3]] == ["all", "stories", "stories/level-1"]


def test_the_text_says_values_interval_flips_and_whether_three_points_could_be_seen(tmp_path: Path) -> None:
    a = bench(tmp_path / "a", items("student", set(range(12))))
    b = bench(tmp_path / "b", items("student", set(range(2, 10))))
    ((left, right),) = chosen(a, b, None, None)
    text = "\n".join(" ".join(line.split()) for line in told(compare(left, right, 0.03), flips=True))
    assert "stories 60.0% 40.0% +20.0 -2.3 to +38.6 20 +4 -0 0.12" in text
    assert "power: 3 points take" in text
    assert "20 were asked, not enough" in text
    assert "training set and exam, a unchecked: x" in text
    assert "p11 stories/level-2 100% 0%" in text


def test_two_checkpoints_of_one_bench_are_named(tmp_path: Path) -> None:
    both = bench(tmp_path / "bench", items("student", {1, 2}), items("teacher", {1, 2, 3}))
    ((left, right),) = chosen(both, both, "teacher", "student")
    assert compare(left, right, 0.03).rows[0].difference == pytest.approx(0.05)
    with pytest.raises(UserError, match=r"which checkpoints\? .* has student, teacher"):
        chosen(both, both, None, None)
    with pytest.raises(UserError, match=r"no checkpoint 'studnt'.*student"):
        chosen(both, both, "studnt", "teacher")


@pytest.mark.parametrize(
    ("rows", "protocol", "told"),
    [
        pytest.param(items("s", {1}), "r1@2", r"asked by greedy@1, .* by r1@2: not the same exam", id="another way"),
        pytest.param(
            items("s", {1}, n=18), "greedy@1", r"2 answers only of the first, 0 only .* 'p18' sample 0", id="fewer"
        ),
        pytest.param(
            items("s", {1}) + items("s", {1}, sample_index=1),
            "greedy@1",
            "0 answers only of the first, 20",
            id="oftener",
        ),
    ],
)
def test_what_was_not_asked_alike_is_refused_in_one_line(
    rows: list[Item], protocol: str, told: str, tmp_path: Path
) -> None:
    a, b = bench(tmp_path / "a", items("s", {1, 2})), bench(tmp_path / "b", rows, protocol=protocol)
    ((left, right),) = chosen(a, b, None, None)
    with pytest.raises(UserError, match=told) as refused:
        compare(left, right, 0.03)
    assert "\n" not in str(refused.value)


def test_a_problem_that_cannot_be_judged_counts_for_neither(tmp_path: Path) -> None:
    a = bench(tmp_path / "a", items("s", {1, 2}))
    other = [
        row.model_copy(update={"status": "gold_bad"}) if row.problem_id == "p1" else row for row in items("s", {2})
    ]
    ((left, right),) = chosen(a, bench(tmp_path / "b", other), None, None)
    found = compare(left, right, 0.03)
    assert (found.rows[0].n, found.rows[0].better) == (19, 0)


def test_a_folder_that_is_no_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a bench folder \(items.jsonl is missing\)"):
        sides(tmp_path)


def test_the_command_finds_the_bench_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bench(tmp_path / "runs" / "mini" / "bench", items("student", {1, 2, 3}), items("student-raw", {1}))
    for name in ("student", "student-raw", "lonely"):
        (tmp_path / "runs" / "mini" / name).mkdir()
    command("mini/student", "mini/student-raw", points=3.0, flips=False, json_=False)
    assert "runs/mini/bench: student\n" in capsys.readouterr().out
    command("mini/bench:student", "runs/mini/bench:student-raw", points=3.0, flips=False, json_=True)
    assert '"better":2' in capsys.readouterr().out
    with pytest.raises(UserError, match="no bench beside it examined lonely"):
        command("mini/lonely", "mini/student", points=3.0, flips=False, json_=False)
    with pytest.raises(UserError, match="nope: no such folder, nor runs/nope"):
        command("nope", "mini/student", points=3.0, flips=False, json_=False)
