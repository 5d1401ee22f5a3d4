"""The nouns refuse what is not one of them and survive a trip through JSON."""

import pytest
from pydantic import ValidationError

from distill.records import Example, Message, Params, Problem, Tests, fingerprint

PROBLEM = Problem(id="p", kind="answer", prompt="1 + 1 ?", answer="2", source="x", split="test", level=1)
SAID = Message(role="assistant", content="2")


def test_problem_survives_json() -> None:
    assert Problem.model_validate_json(PROBLEM.to_json()) == PROBLEM


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": None}, "needs the key 'answer'"),
        ({"kind": "code"}, "needs the key 'tests'"),
        ({"anwser": "2"}, "Extra inputs"),
        ({"split": "dev"}, "'train' or 'test'"),
    ],
    ids=["no answer", "no tests", "unknown key", "unknown split"],
)
def test_bad_problem_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Problem.model_validate({**PROBLEM.model_dump(), **change})


def test_a_required_key_that_holds_none_is_written_and_read_back() -> None:
    row = Example(id="e", problem_id="p", trace_id=None, messages=(SAID,), order=0)
    assert Example.model_validate_json(row.to_json()) == row
    assert "tokens" not in row.to_json()


def test_nan_is_not_a_parameter() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Params(max_tokens=1, temperature=float("nan"))


def test_fingerprint_ignores_key_order_and_sees_values() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_fingerprint_reads_records_as_their_content() -> None:
    tests = Tests(entry_point="f", check="def check(candidate): pass")
    assert fingerprint(tests) == fingerprint(tests.model_dump(mode="json"))


def test_a_parameter_that_came_later_and_is_not_used_leaves_trace_ids_as_they_were() -> None:
    assert fingerprint([Params(max_tokens=5, temperature=0.5)]) == fingerprint(
        [{"max_tokens": 5, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "stop": []}]
    )
    assert fingerprint(Params(max_tokens=5, top_logprobs=2)) != fingerprint(Params(max_tokens=5))


def test_an_example_holds_turns_and_no_bare_text() -> None:
    row = {"id": "e", "problem_id": "p", "trace_id": None, "order": 0, "messages": [{"role": "text", "content": "x"}]}
    with pytest.raises(ValidationError, match="a text is no turn"):
        Example.model_validate(row)
