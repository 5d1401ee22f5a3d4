"""Divergence is high where the teacher is sure and the student is not, and for nothing else."""

import math

import pytest

from distill.curate.divergence import divergences, most_divergent
from distill.curate.measure import Measure
from distill.errors import UserError
from distill.records import SamplerId

STUDENT, TEACHER = (SamplerId(name=name, revision="1") for name in ("student", "teacher"))


def measured(model: SamplerId, probabilities: list[float], tokens: list[int], id: str = "t", **keys: str) -> Measure:
    steps = tuple(math.log(p) for p in probabilities)
    return Measure(trace_id=id, model=model, steps=steps, step_tokens=tuple(tokens), **keys)


def divergence(student: list[float], teacher: list[float], tokens: list[int]) -> float:
    found = divergences([measured(STUDENT, student, tokens)], [measured(TEACHER, teacher, tokens)])
    return found["t"]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        pytest.param([0.1, 0.1], [0.9, 0.9], 0.8, id="teacher sure, student not"),
        pytest.param([0.9, 0.9], [0.9, 0.9], 0.0, id="both sure"),
        pytest.param([0.1, 0.1], [0.1, 0.1], 0.0, id="neither is"),
        pytest.param([0.9, 0.9], [0.1, 0.1], -0.8, id="only the student is"),
        pytest.param([0.1, 0.5], [0.9, 0.5], 0.6, id="a long step weighs more"),
    ],
)
def test_the_gap_is_weighed_by_tokens(student: list[float], teacher: list[float], expected: float) -> None:
    assert divergence(student, teacher, [3, 1]) == pytest.approx(expected, abs=1e-6)


def test_two_tokenizers_are_compared_step_by_step() -> None:
    student = measured(STUDENT, [0.1, 1.0, 0.5], [4, 0, 4])
    teacher = measured(TEACHER, [0.9, 0.7, 0.5], [2, 1, 2])
    assert divergences([student], [teacher])["t"] == pytest.approx(0.4, abs=1e-6), "a step one of them lacks is no gap"


def test_only_what_both_measured_has_a_divergence() -> None:
    students = [measured(STUDENT, [0.1], [1], id) for id in ("both", "student only", "too long for the teacher")]
    teachers = [measured(TEACHER, [0.9], [1], id) for id in ("teacher only", "both")]
    teachers.append(Measure(trace_id="too long for the teacher", model=TEACHER, absent="too-long"))
    assert list(divergences(students, teachers)) == ["both"]


def test_measures_of_different_texts_are_refused() -> None:
    with pytest.raises(UserError, match="trace t has 1 steps under teacher and 2 under the student"):
        divergences([measured(STUDENT, [0.1, 0.1], [1, 1])], [measured(TEACHER, [0.9], [1])])


def test_a_model_is_not_its_own_teacher() -> None:
    with pytest.raises(UserError, match="student is teacher and student"):
        divergences([measured(STUDENT, [0.1], [1])], [measured(STUDENT, [0.1], [1])])


def test_the_most_divergent_are_taken_best_first_and_equals_by_id() -> None:
    values = {"c": 0.5, "b": 0.5, "a": 0.1, "d": 0.9}
    assert most_divergent(values, 3) == ["d", "b", "c"]
    assert most_divergent(dict(reversed(values.items())), 3) == ["d", "b", "c"]


def test_with_groups_no_problem_crowds_out_another() -> None:
    values = {"a1": 0.9, "a2": 0.8, "b1": 0.1}
    assert most_divergent(values, 1, {"a1": "a", "a2": "a", "b1": "b"}) == ["a1", "b1"]
