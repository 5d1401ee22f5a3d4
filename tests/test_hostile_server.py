"""Whatever a server does, no partial or wrong trace is stored, and nobody waits beyond the deadline."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.harvest import TRACES, sample_and_judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Params, Problem, Trace
from distill.sampling.endpoint import EndpointConfig, EndpointSampler, retry
from tests.hostile_server import BEHAVIORS, FINAL, GOOD_STREAM, STREAMS, Behave, good, serving

PROBLEM = Problem(id="p", kind="open", prompt="2+2?", source="x", split="train")
DEADLINE = 1.0


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", 0.02)


def stored(out: Path, *behaviors: Behave, **fields: Any) -> list[str]:
    """Texts in the ledger after a harvest of one problem."""
    with serving(*behaviors) as server:
        settings = {"model": "m", "revision": "1", "tries": 3, "deadline": DEADLINE, "patience": 5.0, **fields}
        sampler = EndpointSampler(EndpointConfig(url=server.url, **settings))
        quiet = Progress("quiet")
        rows = sample_and_judge(
            [PROBLEM], out, Params(max_tokens=9), 1, sampler=sampler, judge=None, seed=0, progress=quiet
        )
        with contextlib.suppress(UserError):  # the ledger says what was kept
            list(rows)
    return [trace.text for trace in read_ledger(out / TRACES, Trace)]


@pytest.mark.parametrize("behave", BEHAVIORS.values(), ids=BEHAVIORS)
def test_only_the_whole_answer_behind_it_is_stored(behave: Behave, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert stored(tmp_path, behave, good) == ["4"]
    assert time.monotonic() - begun < DEADLINE + 3.0, "no stall beyond the deadline, the wait and the second try"


@pytest.mark.parametrize("behave", [*BEHAVIORS.values(), *FINAL.values()], ids=[*BEHAVIORS, *FINAL])
def test_nothing_is_stored_from_a_server_that_never_behaves(behave: Behave, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert stored(tmp_path, behave, tries=1) == []
    assert time.monotonic() - begun < DEADLINE + 2.0


@pytest.mark.parametrize("behave", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_is_not_whole_is_never_stored(behave: Behave, tmp_path: Path) -> None:
    assert stored(tmp_path / "never", behave, tries=1, stream=True) == []
    assert stored(tmp_path / "then", behave, GOOD_STREAM, stream=True) == ["4"]
