"""The oracle: right where it should be, wrong as often as asked, the same whatever is asked beside it."""

import random

import pytest

from distill.errors import UserError
from distill.problems.families import FAMILIES, family
from distill.prompts import split_thought
from distill.records import Message, Params, Problem
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Request


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(0)
    return [family(name).generate(rng, level) for name in FAMILIES for level in (1, 2, 3, 4) for _ in range(25)]


def ask(problem, n=1, seed=0, max_tokens=500):
    turn = Message(role="user", content=problem.prompt)
    return Request(problem.id, (turn,), Params(max_tokens=max_tokens), n, seed)


def texts(sampler, requests):
    return {row.request.id: [said.text for said in row.completions] for row in sampler.sample(requests)}


def is_right(problem, text):
    return split_thought(text).answer == family(problem.source).worked(problem).answer


def test_without_errors_every_trace_is_the_worked_one(rows):
    for problem in rows:
        (text,) = texts(OracleSampler(rows), [ask(problem)])[problem.id]
        assert is_right(problem, text)
        assert split_thought(text).reasoning == problem.solution


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_the_error_rate_is_the_share_of_wrong_answers(rows, rate):
    said = texts(OracleSampler(rows, error_rate=rate), [ask(problem, n=4) for problem in rows])
    wrong = [not is_right(problem, text) for problem in rows for text in said[problem.id]]
    assert abs(sum(wrong) / len(wrong) - rate) < 0.05


def test_steps_said_twice_make_right_chains_of_one_problem_differ(rows):
    sampler = OracleSampler(rows, repeat_rate=0.5)
    said = texts(sampler, [ask(problem, n=4) for problem in rows])
    deep = [problem for problem in rows if (problem.level or 0) >= 3]
    assert all(is_right(problem, text) for problem in rows for text in said[problem.id])
    assert sum(len(set(said[problem.id])) for problem in deep) / len(deep) > 2.5
    for problem in deep:
        steps = (problem.solution or "").removesuffix(" ;").split(" ; ")
        told = (split_thought(said[problem.id][0]).reasoning or "").removesuffix(" ;").split(" ; ")
        assert set(told) == set(steps)
        assert len(steps) <= len(told) <= 2 * len(steps)
    assert sampler.identity != OracleSampler(rows).identity


def test_a_sample_depends_on_its_seed_and_problem_alone(rows):
    sampler = OracleSampler(rows, error_rate=0.5)
    together = texts(sampler, [ask(problem, n=3, seed=5) for problem in rows])
    for problem in rows[::10]:
        alone = [texts(sampler, [ask(problem, seed=5 + k)])[problem.id][0] for k in range(3)]
        assert together[problem.id] == alone


def test_a_thought_over_the_limit_is_cut_and_says_so(rows):
    problem = rows[-1]
    (answered,) = OracleSampler(rows).sample([ask(problem, max_tokens=7)])
    (said,) = answered.completions
    assert (said.finish, said.completion_tokens, len(said.text.split())) == ("length", 7, 7)


def test_the_end_of_the_turn_counts_as_a_token(rows):
    problem = rows[0]
    words = len(texts(OracleSampler(rows), [ask(problem)])[problem.id][0].split())
    finishes = [
        next(OracleSampler(rows).sample([ask(problem, max_tokens=limit)])).completions[0].finish
        for limit in (words, words + 1)
    ]
    assert finishes == ["length", "stop"]


def test_oracles_of_two_error_rates_have_two_identities(rows):
    assert OracleSampler(rows).identity.name == "oracle"
    assert OracleSampler(rows).identity != OracleSampler(rows, error_rate=0.1).identity
    assert OracleSampler(rows).identity == OracleSampler([]).identity


def test_requests_are_read_only_as_far_as_they_are_answered(rows):
    read = []

    def requests():
        for problem in rows:
            read.append(problem.id)
            yield ask(problem)

    next(OracleSampler(rows).sample(requests()))
    assert len(read) == 1


def test_an_unknown_request_is_named(rows):
    stranger = Problem(id="p-1", kind="answer", prompt="?", answer="1", source="gsm8k", split="test")
    with pytest.raises(UserError, match="p-1"):
        texts(OracleSampler(rows), [ask(stranger)])
    with pytest.raises(UserError, match="gsm8k"):
        texts(OracleSampler([stranger]), [ask(stranger)])


def test_an_error_rate_outside_0_to_1_is_refused():
    with pytest.raises(UserError, match="error_rate"):
        OracleSampler([], error_rate=1.5)


def test_the_oracle_has_no_probabilities(rows):
    with pytest.raises(UserError, match="oracle"):
        OracleSampler(rows).score([1, 2], 5)
