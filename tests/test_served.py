"""Rollouts from a server: the same learning as through our engine, and every way in which a server may not do."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import UserError
from distill.train.served import RolloutsConfig
from tests.rollout_server import Speaker, rollout_server
from tests.test_rl import LengthJudge, curve_of, largest_gap, model, problems, train

__all__ = ["model", "problems"]


def served(url: str, server: str, **more: Any) -> dict[str, Any]:
    address = url + "/v1" if server == "vllm" else url
    endpoint = {"url": address, "model": "policy", "revision": "live", "tries": 2, "patience": 1.0}
    return {"server": server, "endpoint": endpoint, **more}


@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_a_server_teaches_what_our_engine_teaches(server: str, model: Path, problems: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"steps": 3, "warmup_steps": 0, "learning_rate": 1e-3}
    train(model, problems, tmp_path / "engine", LengthJudge(), **fields)
    speaker = Speaker(model)
    with rollout_server(speaker) as url:
        train(model, problems, tmp_path / "served", LengthJudge(), rollouts=served(url, server), **fields)
    assert len(speaker.read) == 1 + 3  # the probe, and each step
    assert len(set(speaker.read)) == 4
    assert speaker.calls == 16 + 3 * 16
    assert largest_gap(model, tmp_path / "served") > 1e-4
    assert largest_gap(tmp_path / "engine", tmp_path / "served") < 1e-5
    for ours, theirs in zip(curve_of(tmp_path / "engine"), curve_of(tmp_path / "served"), strict=True):
        assert ours.rewards == theirs.rewards
        assert ours.entropy == pytest.approx(theirs.entropy)
        assert ours.importance is None
        assert theirs.importance == pytest.approx(1.0, abs=1e-4)  # the server is corrected for, and needs none
    assert sorted(path.name for path in (tmp_path / "served").iterdir() if path.is_dir()) == []


def test_a_server_that_keeps_old_weights_is_noticed(model: Path, problems: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"steps": 30, "warmup_steps": 0, "learning_rate": 0.02, "max_tokens": 4}
    fields["guard"] = {"window": 3, "accuracy_drop": 0.0, "stuck": 0.0, "entropy_least": 0.0}
    with (
        rollout_server(Speaker(model, deaf=True)) as url,
        pytest.raises(UserError, match=r"sampler and trainer are .* nats a token apart .*do not hold the same weights"),
    ):
        train(model, problems, tmp_path / "out", LengthJudge(), rollouts=served(url, "vllm"), **fields)


@pytest.mark.parametrize(
    ("server", "broken", "told"),
    [
        ("vllm", "no ids", "token ids and a log-probability of each are needed"),
        ("vllm", "no end", "expected the end token among its ids"),
        ("sglang", "weights", r"/update_weights_from_disk: fresh weights: fresh weights refused: no such folder"),
    ],
)
def test_a_server_that_cannot_do_is_refused_before_the_first_step(
    server: str, broken: str, told: str, model: Path, problems: Path, tmp_path: Path
) -> None:
    with rollout_server(Speaker(model), broken) as url, pytest.raises(UserError, match=told):
        train(model, problems, tmp_path / "out", LengthJudge(), steps=1, rollouts=served(url, server))
    assert not (tmp_path / "out" / "curve.jsonl").exists()


@pytest.mark.parametrize(
    ("server", "endpoint", "told"),
    [
        ("vllm", {"url": "http://h:8000"}, r"http://h:8000: expected a url that ends in /v1 for server = 'vllm'"),
        ("sglang", {"url": "http://h:8000/v1"}, "expected a url without a path for server = 'sglang'"),
        ("vllm", {"url": "http://h/v1", "api": "chat"}, "endpoint.api: means nothing here"),
        ("trl", {"url": "http://h/v1"}, "Input should be 'vllm' or 'sglang'"),
    ],
)
def test_tables_that_cannot_work_are_refused(server: str, endpoint: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RolloutsConfig.model_validate({"server": server, "endpoint": {"model": "m", "revision": "r", **endpoint}})
