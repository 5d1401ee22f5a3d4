"""What a completion is worth: each reward on completions that differ in one thing, and a recipe's weights."""

from typing import Any

import pytest
from pydantic import ValidationError

from distill.judge import Judge
from distill.prompts import to_trace
from distill.records import Completion, Finish, Params, Problem, SamplerId, Trace
from distill.train import rewards as module
from distill.train.rewards import Rewards, RewardsConfig, overlong_punishment
from distill.train.rl import RlConfig

WORDS = "first we add the seven coins of Mia to the five coins of Tom and then we take three away from that sum"
QUESTION = "How many coins are there when Mia gives all her coins to Tom ?"
GERMAN = "zuerst zählen wir die sieben Münzen von Mia zu den fünf Münzen von Tom und dann nehmen wir drei davon weg"
GOOD = f"<think> {WORDS} </think> 9"


def said(text: str, tokens: int = 30, finish: Finish = "stop", think_open: bool = False) -> Trace:
    return to_trace(
        Completion(text=text, finish=finish, prompt_tokens=1, completion_tokens=tokens),
        think_open=think_open,
        id=f"{tokens} {text[:30]}",
        problem_id="p",
        sampler=SamplerId(name="s", revision="1"),
        params=Params(max_tokens=100),
        sample_index=0,
    )


def worth(traces: list[Trace], **weights: float) -> list[dict[str, float]]:
    problem = Problem(id="p", kind="answer", prompt=QUESTION, answer="9", source="x", split="train")
    asked = [(problem, trace) for trace in traces]
    with Rewards(RewardsConfig(**weights), 100) as rewards, Judge() as judge:
        finish = rewards.begin(asked)
        return finish(list(judge.judge_many(asked)))


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        pytest.param("accuracy", said(f"<think> {WORDS} </think> 8"), id="a wrong answer"),
        pytest.param("format", said(f"{WORDS} 9"), id="no thought"),
        pytest.param("format", said(f"<think> {WORDS} 9"), id="never closed"),
        pytest.param("format", said(f"<think> {WORDS} </think> 9 </think>"), id="closed twice"),
        pytest.param("format", said("<think> </think> 9"), id="an empty thought"),
        pytest.param("format", said(GOOD, finish="length"), id="cut"),
        pytest.param("readability", said(f"<think> {WORDS} <|im_end|> </think> 9"), id="a control token"),
        pytest.param("language", said(f"<think> {GERMAN} {GERMAN} </think> 9"), id="another language"),
        pytest.param("repetition", said(f"<think> {(WORDS + ' . ') * 9} </think> 9"), id="a loop"),
        pytest.param("length", said(GOOD, tokens=95), id="nearly too long"),
    ],
)
def test_each_reward_ranks_the_clean_completion_above_one_with_its_flaw(name: str, worse: Trace) -> None:
    better, flawed = worth([said(GOOD), worse], **{"accuracy": 1.0, name: 1.0})
    assert set(better) == {"accuracy", name}
    assert better[name] == pytest.approx(0.0 if name == "length" else 1.0)
    assert flawed[name] < better[name]


def test_a_thought_that_the_prompt_opened_is_well_formed() -> None:
    (found,) = worth([said(f"{WORDS} </think> 9", think_open=True)], format=1.0)
    assert found["format"] == 1.0


@pytest.mark.parametrize(("tokens", "expected"), [(1, 0.0), (16384, 0.0), (18432, -0.5), (20480, -1.0), (30000, -1.0)])
def test_the_length_reward_is_dapos_soft_overlong_punishment(tokens: int, expected: float) -> None:
    assert overlong_punishment(tokens, 20480, 4096 / 20480) == pytest.approx(expected)


def test_rewards_are_summed_by_their_weights() -> None:
    rewards = Rewards(RewardsConfig(accuracy=2.0, language=0.5, length=0.1), 100)
    assert rewards.total({"accuracy": 1.0, "language": 0.5, "length": -1.0}) == pytest.approx(2.0 + 0.25 - 0.1)


def test_processes_find_what_this_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [said(GOOD), said(f"<think> {GERMAN} </think> 9"), said("9"), said(f"<think> {WORDS * 3} </think> 8")]
    weights = {"format": 1.0, "language": 1.0, "repetition": 1.0, "readability": 1.0}
    here = worth(traces, **weights)
    monkeypatch.setattr(module, "POOLED", 0)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {0, 1})
    assert worth(traces, **weights) == here


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rewards": {"accuracy": 0.0}}, "every weight is 0"),
        ({"rewards": {"accuracy": -1.0}}, "greater than or equal to 0"),
        ({"format_reward": 0.2}, r"format_reward: now `format` of the table rewards.*rewards = \{ format = 0.2 \}"),
        ({"accuracy_reward": 1.0}, "accuracy_reward: now `accuracy` of the table rewards"),
        ({"importance_cap": 2.0, "temperature": 0.7}, "importance_cap: needs temperature = 1"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RlConfig(model="m", problems="p", steps=1, max_tokens=1, **fields)
