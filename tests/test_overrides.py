"""`--set`: what it puts into a recipe's tables, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.overrides import apply

RECIPE = Path("r.toml")


@pytest.mark.parametrize(
    ("override", "made"),
    [
        ("seed=2", {"seed": 2, "a": {"x": 1, "b": {"y": 2}}}),
        ("a.x=text", {"a": {"x": "text", "b": {"y": 2}}}),
        ("a.b.y=[1]", {"a": {"x": 1, "b": {"y": [1]}}}),
        ("a.guard.drop=0.5", {"a": {"x": 1, "b": {"y": 2}, "guard": {"drop": 0.5}}}),
        ("a.one.two.three=1", {"a": {"x": 1, "b": {"y": 2}, "one": {"two": {"three": 1}}}}),
    ],
)
def test_a_value_is_put_where_its_key_says(override: str, made: dict[str, Any]) -> None:
    tables = {"a": {"x": 1, "b": {"y": 2}}}
    apply(tables, override, RECIPE)
    assert tables == made


@pytest.mark.parametrize("override", ["ab.x=1", "a.x.y=1", "seed", "a"])
def test_a_step_that_is_not_there_and_a_value_that_is_no_table_are_refused(override: str) -> None:
    with pytest.raises(UserError, match=f"--set {override}"):
        apply({"a": {"x": 1}}, override, RECIPE)
