"""The training section of the report: what a curve holds is drawn, what a guard found is said."""

from pathlib import Path
from typing import Any

from evals.report.collect import Collected, Point, Step
from evals.report.making import training
from tests.test_sft import manifest


def collected(points: list[Point], **marks: Any) -> Collected:
    made = manifest(marks).model_copy(update={"step": "student", "stage": "sft"})
    return Collected((), {Path("student"): Step("student", made, ())}, {"student": points}, ())


def test_losses_by_class_and_held_out_figures_are_drawn_where_a_curve_has_them() -> None:
    rows = [Point(step=step, loss=3 / step, loss_reasoning=2 / step, loss_answer=4 / step) for step in range(1, 100)]
    rows.append(Point(step=100, loss=0.03, held_out_loss=0.05, held_out_accuracy=0.5))
    html = training(collected(rows))
    assert 'aria-label="loss, student"' in html
    assert 'aria-label="accuracy on held-out problems, student"' in html
    assert all(f">{name}</span>" in html for name in ("loss", "reasoning", "answer", "held-out rows"))
    plain = training(collected([Point(step=step, loss=3 / step) for step in range(1, 100)]))
    assert "reasoning" not in plain
    assert "held-out" not in plain


def test_a_figure_measured_once_is_a_dot_that_can_be_seen() -> None:
    rows = [Point(step=step, loss=3 / step) for step in range(1, 100)]
    once = training(collected([*rows, Point(step=100, loss=0.03, held_out_loss=0.05)]))
    group = once[once.index('data-series="3"') :].partition("</g></g>")[0]
    assert "<g>" in group


def test_a_student_worse_than_its_base_is_said_to_be() -> None:
    row = {
        "base": 0.25,
        "student": 0.125,
        "difference": -0.125,
        "low": -0.2,
        "high": -0.05,
        "n": 64,
        "verdict": "worse",
    }
    guard = {"target": row, "worse": ["target"], "warnings": ["traces may be beyond this student"]}
    html = training(collected([], guard=guard))
    assert "-12.5 (-20.0 to -5.0)" in html
    assert ">worse<" in html
    assert "student: traces may be beyond this student" in html
