"""Rounds ask where it pays, repeat what they froze, and say why a problem is given up."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import distill.harvest.walk as walk
from distill.errors import UserError
from distill.harvest import HarvestConfig, harvest
from distill.harvest.summary import Label, PassRate
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Completion, Problem, SamplerId, Trace, Verdict
from distill.runs import Report
from distill.sampling.protocols import Answered, Request

LEVELS = 11
QUIET = Progress("quiet")


def problem(number: int, **fields: Any) -> Problem:
    known = {"id": f"p{number}", "kind": "answer", "prompt": f"{number} + 1", "answer": "right", "source": "x"}
    return Problem.model_validate({**known, "split": "train", "level": number % LEVELS + 1, **fields})


PROBLEMS = [problem(number) for number in range(3 * LEVELS)]


class Seeded:
    """Right with a chance of (level - 1) in ten: level 1 is never solved, level 11 always.

    After `stop_after` requests it is interrupted. `batch` requests are answered together, the last first.
    """

    identity = SamplerId(name="seeded", revision="1")
    think_open = False

    def __init__(self, problems: Iterable[Problem] = PROBLEMS, batch: int = 1, cut: bool = False) -> None:
        self.levels = {row.id: row.level or 1 for row in problems}
        self.batch, self.cut = batch, cut
        self.asked: list[Request] = []

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        held: list[Request] = []
        for request in requests:
            self.asked.append(request)
            held.append(request)
            if len(held) == self.batch:
                yield from map(self._answer, reversed(held))
                held = []
        yield from map(self._answer, reversed(held))

    def _answer(self, request: Request) -> Answered:
        return Answered(request, tuple(self._say(request, request.seed + k) for k in range(request.n)))

    def _say(self, request: Request, seed: int) -> Completion:
        lot = random.Random(f"{seed} {request.params.temperature}")
        right = lot.random() < (self.levels[request.id] - 1) / 10
        tokens = lot.randrange(5, 20)
        text = "right" if right else f"wrong {lot.randrange(9)}"
        finish = "length" if self.cut and not right else "stop"
        return Completion(text=text, finish=finish, prompt_tokens=3, completion_tokens=tokens)


class Comparing:
    """Compares strings. Reads `ahead` pairs before it says anything."""

    def __init__(self, ahead: int = 1) -> None:
        self.ahead = ahead

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        held: list[Verdict] = []
        for asked, trace in pairs:
            status = "correct" if trace.answer == asked.answer else "wrong"
            status = "undecided" if asked.kind == "open" else "truncated" if trace.finish == "length" else status
            held.append(Verdict.model_validate({"trace_id": trace.id, "judge_version": "1", "status": status}))
            if len(held) == self.ahead:
                yield from held
                held = []
        yield from held


def config(**tables: Any) -> HarvestConfig:
    return HarvestConfig.model_validate(
        {"problems": "p", "sampler": "oracle", "error_rate": 0.1, "max_tokens": 20, **tables}
    )


ROUNDS = {"samples": [4, 4, 4, 4], "until_verified": 4}
ADAPTIVE = config(rounds=ROUNDS)


def run(out: Path, settings: HarvestConfig, sampler: Any = None, judge: Any = None, problems: Any = PROBLEMS) -> Report:
    out.mkdir(exist_ok=True)
    write_jsonl(out / "problems.jsonl", problems)
    return harvest(out, out, settings, sampler=sampler or Seeded(), judge=judge or Comparing(), seed=0, progress=QUIET)


def traces(out: Path) -> list[Trace]:
    return list(read_ledger(out / "traces", Trace))


def rounds(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((out / "rounds").glob("*.json"))]


def rates(out: Path) -> dict[str, PassRate]:
    return {row.problem_id: row for row in read_jsonl(out / "passrates.jsonl", PassRate)}


def right(out: Path) -> Counter[str]:
    return Counter(trace.problem_id for trace in traces(out) if trace.text == "right")


def test_rounds_verify_what_sixteen_samples_for_everyone_would_for_fewer_tokens(tmp_path: Path) -> None:
    fixed = run(tmp_path / "fixed", config(samples=16))
    adaptive = run(tmp_path / "adaptive", ADAPTIVE)
    one, other = right(tmp_path / "fixed"), right(tmp_path / "adaptive")
    for enough in (1, 4):
        verified = {name for name, count in one.items() if count >= enough}
        assert verified == {name for name, count in other.items() if count >= enough} != set()
    assert adaptive.counts["verified_problems"] == len(one)
    assert adaptive.tokens < 0.7 * fixed.tokens
    long = {(trace.problem_id, trace.sample_index): trace.text for trace in traces(tmp_path / "fixed")}
    short = {(trace.problem_id, trace.sample_index): trace.text for trace in traces(tmp_path / "adaptive")}
    assert short.items() < long.items(), "the first samples of the same draw"


def test_the_first_round_has_the_ids_of_a_harvest_without_rounds(tmp_path: Path) -> None:
    run(tmp_path / "plain", config(samples=4))
    run(tmp_path / "rounds", ADAPTIVE)
    plain = {trace.id for trace in traces(tmp_path / "plain")}
    assert plain == {trace.id for trace in traces(tmp_path / "rounds") if trace.round == 0}


def test_a_table_without_rounds_is_written_as_it_was() -> None:
    """Finished steps are known by it: a new key with a default would harvest everything again."""
    assert not {"rounds", "majority", "memory", "forcing", "verify"} & config().model_dump(mode="json").keys()


def test_what_has_enough_gets_no_more_and_what_has_none_gets_all(tmp_path: Path) -> None:
    run(tmp_path, ADAPTIVE)
    found = rates(tmp_path)
    by_level = {row.level: row for row in found.values()}
    assert (by_level[11].n, by_level[11].given_up) == (4, None)
    assert (by_level[1].n, by_level[1].verified) == (16, 0)
    assert by_level[1].given_up == "rounds over: 0 of 4 verified in 16 samples"
    assert all((row.verified >= 4) == (row.given_up is None) for row in found.values())


def event_count(out: Path, settings: HarvestConfig, kill_at: int | None) -> int:
    """Harvest in a child that dies at an event: a request, a round about to be frozen, a round just frozen."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        events = 0

        def event() -> None:
            nonlocal events
            if events == kill_at:
                os._exit(9)
            events += 1

        class Dying(Seeded):
            def _answer(self, request: Request) -> Answered:
                event()
                return super()._answer(request)

        freeze: Callable[..., None] = walk.write_round

        def frozen(*args: Any) -> None:
            event()
            freeze(*args)
            event()

        walk.write_round = frozen  # type: ignore[assignment]
        run(out, settings, Dying(), problems=PROBLEMS[1:LEVELS:3])
        os.write(tell, str(events).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as said:
        counted = said.read()
    os.waitpid(child, 0)
    return int(counted or 0)


def test_a_kill_at_every_boundary_changes_no_id_and_no_decision(tmp_path: Path) -> None:
    settings = config(rounds={**ROUNDS, "give_up_after": 12}, verify={})
    events = event_count(tmp_path / "whole", settings, None)
    ids, files = {trace.id for trace in traces(tmp_path / "whole")}, rounds(tmp_path / "whole")
    assert {file["how"] for file in files} == {"sample", "check", "close"}
    assert events > 20
    for number in range(events):
        out = tmp_path / str(number)
        event_count(out, settings, number)
        stored = {trace.id for trace in traces(out)} if (out / "traces").is_dir() else set()
        sampler = Seeded()
        run(out, settings, sampler, problems=PROBLEMS[1:LEVELS:3])
        found = [trace.id for trace in traces(out)]
        assert (set(found), len(found), rounds(out)) == (ids, len(ids), files), f"killed at event {number}"
        assert sum(request.n for request in sampler.asked) == len(ids - stored), "what is stored is not asked again"


@pytest.mark.parametrize(("batch", "ahead"), [(7, 1), (1, 50), (100, 1000)])
def test_the_order_of_answers_and_verdicts_changes_no_decision(tmp_path: Path, batch: int, ahead: int) -> None:
    run(tmp_path / "plain", ADAPTIVE)
    run(tmp_path / "other", ADAPTIVE, Seeded(batch=batch), Comparing(ahead))
    assert rounds(tmp_path / "plain") == rounds(tmp_path / "other")
    plain, other = ([trace.id for trace in traces(tmp_path / name)] for name in ("plain", "other"))
    assert sorted(plain) == sorted(other)


def test_frozen_rounds_are_repeated_though_a_newer_judge_says_otherwise(tmp_path: Path) -> None:
    class Strict(Comparing):
        def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
            for verdict in super().judge_many(pairs):
                yield verdict.model_copy(update={"status": "wrong"})

    run(tmp_path, ADAPTIVE)
    files, sampler = rounds(tmp_path), Seeded()
    for path in (tmp_path / "verdicts").iterdir():
        path.unlink()
    run(tmp_path, ADAPTIVE, sampler, Strict())
    assert (rounds(tmp_path), sampler.asked) == (files, [])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"n":4', '"n":5', 1))


def drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        pytest.param(edit, r"000\.json: not the bytes that were sealed", id="edited"),
        pytest.param(drop, r"000\.json: missing, though there are", id="removed"),
    ],
)
def test_a_round_file_that_was_changed_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    run(tmp_path, ADAPTIVE)
    damage(tmp_path / "rounds" / "000.json")
    with pytest.raises(UserError, match=complaint):
        run(tmp_path, ADAPTIVE)


def test_rounds_of_another_policy_are_refused(tmp_path: Path) -> None:
    run(tmp_path, ADAPTIVE)
    with pytest.raises(UserError, match="expected round 0 of policy"):
        run(tmp_path, config(rounds={**ROUNDS, "until_verified": 3}))


def test_a_hopeless_problem_is_given_up_with_the_reason(tmp_path: Path) -> None:
    report = run(tmp_path, config(rounds={**ROUNDS, "give_up_after": 6}))
    hopeless = [row for row in rates(tmp_path).values() if row.level == 1]
    assert {(row.n, row.given_up) for row in hopeless} == {(6, "give_up_after: none verified in 6 samples")}
    assert report.counts["given_up"] >= len(hopeless)


def test_the_budget_of_a_problem_is_never_exceeded(tmp_path: Path) -> None:
    run(tmp_path, config(rounds={**ROUNDS, "budget_tokens": 100}, verify={"traces": 3}))
    found = rates(tmp_path)
    assert max(row.tokens for row in found.values()) <= 100
    spent = next(row for row in found.values() if row.level == 1)
    assert (spent.given_up or "").startswith(f"budget_tokens: {spent.tokens} of 100 spent")


def test_every_round_has_its_temperature(tmp_path: Path) -> None:
    run(tmp_path, config(rounds={"samples": [2, 2], "temperatures": [0.5, 1.25]}))
    asked = {(trace.round, trace.params.temperature, trace.sample_index) for trace in traces(tmp_path) if trace.params}
    assert asked == {(0, 0.5, 0), (0, 0.5, 1), (1, 1.25, 2), (1, 1.25, 3)}
    assert len(traces(tmp_path)) == 4 * len(PROBLEMS), "nothing stops rounds that have no aim"


def test_truncated_samples_are_kept_and_count_as_samples(tmp_path: Path) -> None:
    """Asking again until a sample fits would favor short problems."""
    run(tmp_path, ADAPTIVE, Seeded(cut=True))
    row = next(row for row in rates(tmp_path).values() if row.level == 1)
    assert (row.n, row.truncated, row.value, row.verified) == (16, 16, 0.0, 0)
    assert sum(trace.problem_id == row.problem_id for trace in traces(tmp_path)) == 16


def test_pass_rates_have_n_and_a_wilson_interval(tmp_path: Path) -> None:
    run(tmp_path, config(rounds={"samples": [20]}))
    counts = right(tmp_path)
    for name, row in rates(tmp_path).items():
        assert (row.n, row.correct, row.value) == (20, counts[name], counts[name] / 20)
    none = next(row for row in rates(tmp_path).values() if row.level == 1)
    assert (none.low, none.high) == (0.0, pytest.approx(0.1611, abs=1e-4))


class Voting(Seeded):
    """Says 7 as often as `Seeded` is right, else some other number."""

    def _say(self, request: Request, seed: int) -> Completion:
        said = super()._say(request, seed)
        return said.model_copy(update={"text": f"\\boxed{{{7 if said.text == 'right' else said.text[-1]}}}"})


def test_a_majority_labels_problems_without_gold_and_stops_their_rounds(tmp_path: Path) -> None:
    asked = [problem(number, kind="open", answer=None) for number in range(LEVELS)]
    settings = config(rounds=ROUNDS, majority={"min_votes": 3, "min_share": 0.6})
    run(tmp_path, settings, Voting(asked), problems=asked)
    labels = {row.problem_id: row for row in read_jsonl(tmp_path / "majority.jsonl", Label)}
    found = rates(tmp_path)
    sure = labels["p10"]
    assert (sure.answer, sure.votes, sure.voters, sure.runner_up, sure.margin) == ("7", 4, 4, 0, 1.0)
    assert (found["p10"].n, found["p10"].given_up) == (4, None)
    assert "p0" not in labels, "nine wrong answers have no majority"
    assert found["p0"].n == 16
    for row in labels.values():
        said = Counter(trace.text for trace in traces(tmp_path) if trace.problem_id == row.problem_id)
        (_, most), *rest = said.most_common()
        assert (row.votes, row.runner_up) == (most, rest[0][1] if rest else 0)
        assert row.votes / row.voters >= 0.6


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        pytest.param({"rounds": {"samples": []}}, "at least 1 item", id="no round"),
        pytest.param({"rounds": {"samples": [0]}}, "greater than 0", id="a round of nothing"),
        pytest.param({"rounds": ROUNDS, "samples": 4}, "samples: rounds.samples says", id="two answers to how many"),
        pytest.param({"rounds": ROUNDS, "defer_verdicts": True}, "defer_verdicts: rounds", id="nothing to decide from"),
        pytest.param({"verify": {}, "defer_verdicts": True}, "defer_verdicts: rounds", id="nothing to check"),
        pytest.param({"rounds": {**ROUNDS, "temperatures": [1.0]}}, "expected one a round", id="short schedule"),
        pytest.param({"rounds": {**ROUNDS, "budget_tokens": 19}}, "room for one sample", id="budget of less than one"),
        pytest.param({"forcing": {"max_tokens": 5}}, "does not read what it is shown", id="an oracle to be continued"),
        pytest.param(
            {"sampler": "engine", "model": "m", "error_rate": None, "memory": {"max_tokens": 9}},
            "two rounds or more",
            id="memory of nothing",
        ),
    ],
)
def test_tables_that_contradict_one_another_are_refused(tables: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**tables)
