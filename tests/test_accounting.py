"""A budget ends a harvest before it is exceeded, loses nothing, and goes on when it is raised."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

from cli.main import STOPPED
from distill.errors import StoppedError, UserError
from distill.harvest import HarvestConfig, goes_on, harvest
from distill.harvest.accounting import Account, Billing
from distill.harvest.budget import BudgetConfig
from distill.harvest.clock import CLOCK, Clock
from distill.harvest.panel import servers
from distill.harvest.prices import find_prices
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.problems.families import family
from distill.problems.stage import draw
from distill.progress import Progress
from distill.records import Completion, Message, Params, Problem, SamplerId, Trace
from distill.runs import Report
from distill.sampling.endpoint.bodies import read
from distill.sampling.endpoint.pool import Health
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Answered, Request
from tests.test_cli import SMALL, complaint, distill
from tests.test_harvest import Comparing

QUIET = Progress("quiet")
MOST = 60
ROUNDS = {"samples": (2, 2), "until_verified": 2}
PRICE = {"prompt": 1e6, "completion": 1e6, "currency": "XXX", "date": "2025-01-01", "source": "a test"}
"""Every token costs one."""


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    stories = family("stories")
    return [row for level in (1, 2, 3) for row in draw(stories, level, "train", 20, seed=0).problems]


class Wide(OracleSampler):
    """The oracle, which takes `ahead` requests before it answers any, as an engine or a server does."""

    ahead = 16

    def __init__(self, problems: Iterable[Problem], **rates: float) -> None:
        super().__init__(problems, **rates)
        self.asked: list[tuple[str, int]] = []

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        source = iter(requests)
        while True:
            held = list(islice(source, self.ahead))
            if not held:
                return
            for request in held:
                self.asked += [(request.id, request.first + k) for k in range(request.n)]
            yield from super().sample(held)


def settings(**fields: object) -> HarvestConfig:
    how_many = {} if "rounds" in fields else {"samples": 4}
    table = {"problems": "p", "sampler": "oracle", "error_rate": 0.3, "max_tokens": MOST, **how_many, **fields}
    return HarvestConfig.model_validate(table)


def run(problems: Sequence[Problem], out: Path, config: HarvestConfig, sampler: OracleSampler | None = None) -> Report:
    out.mkdir(exist_ok=True)
    write_jsonl(out / "problems.jsonl", problems)
    speaker = sampler or Wide(problems, error_rate=0.3)
    return harvest(out, out, config, sampler=speaker, judge=Comparing(), seed=0, progress=QUIET)


def traces(out: Path) -> list[Trace]:
    return list(read_ledger(out / "traces", Trace))


def tokens(out: Path) -> int:
    return sum(trace.completion_tokens for trace in traces(out))


@pytest.mark.parametrize("in_rounds", [False, True], ids=["one round", "rounds"])
@pytest.mark.parametrize("limit", [MOST, 500, 1234, 2000])
def test_tokens_never_exceed_the_budget_and_almost_all_of_them_are_used(
    problems: list[Problem], tmp_path: Path, limit: int, in_rounds: bool
) -> None:
    config = settings(budget={"tokens": limit}, **({"rounds": ROUNDS} if in_rounds else {}))
    with pytest.raises(StoppedError, match=rf"budget spent \(tokens\): [\d,]+ of {limit:,} tokens"):
        run(problems, tmp_path, config)
    assert limit - MOST < tokens(tmp_path) <= limit


def test_a_raised_budget_goes_on_and_ends_with_the_traces_of_no_budget(problems: list[Problem], tmp_path: Path) -> None:
    run(problems, tmp_path / "whole", settings())
    sampler = Wide(problems, error_rate=0.3)
    for limit in (300, 301, 2000):
        with pytest.raises(StoppedError):
            run(problems, tmp_path / "bit by bit", settings(budget={"tokens": limit}), sampler)
    report = run(problems, tmp_path / "bit by bit", settings(budget={"tokens": 10**6}), sampler)
    assert report.counts["missing"] == 0
    assert report.short is None
    assert len(sampler.asked) == len(set(sampler.asked)) == 4 * len(problems), "nothing is paid for twice"
    found, wanted = ({(t.id, t.text) for t in traces(tmp_path / name)} for name in ("bit by bit", "whole"))
    assert found == wanted


def test_what_was_spent_is_counted_from_what_is_stored(problems: list[Problem], tmp_path: Path) -> None:
    """Another process may have been killed at any instant: there is no counter it could have lost."""
    with pytest.raises(StoppedError):
        run(problems, tmp_path, settings(budget={"tokens": 1000}))
    with (tmp_path / "traces" / "0000.jsonl").open("ab") as shard:
        shard.write(b'{"crc":"0000')  # torn by a kill
    sampler = Wide(problems, error_rate=0.3)
    with pytest.raises(StoppedError):
        run(problems, tmp_path, settings(budget={"tokens": 1000}), sampler)
    assert len(sampler.asked) <= 1


def test_a_half_harvest_is_of_all_levels(problems: list[Problem], tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(problems, tmp_path, settings(budget={"tokens": 1500}))
    levels = {problem.id: problem.level for problem in problems}
    assert {levels[trace.problem_id] for trace in traces(tmp_path)} == {1, 2, 3}


def test_finish_ends_with_what_is_there_and_says_so(problems: list[Problem], tmp_path: Path) -> None:
    config = settings(budget={"tokens": 1000, "on_spent": "finish"})
    report = run(problems, tmp_path, config)
    assert report.short
    assert report.lines[1].startswith("SHORT: budget spent (tokens)")
    assert report.counts["missing"] == 4 * len(problems) - len(traces(tmp_path))
    assert report.marks["budget"]["limit"] == "tokens"


def test_rounds_ended_by_the_budget_say_who_got_too_little(problems: list[Problem], tmp_path: Path) -> None:
    report = run(problems, tmp_path, settings(rounds=ROUNDS, budget={"tokens": 800, "on_spent": "finish"}))
    said = (tmp_path / "passrates.jsonl").read_text()
    assert report.counts["given_up"] == said.count("budget: tokens spent") > 0
    report = run(problems, tmp_path, settings(rounds=ROUNDS))
    assert report.short is None
    assert "budget" not in (tmp_path / "passrates.jsonl").read_text()


@pytest.mark.parametrize(
    ("budget", "marks", "expected"),
    [
        pytest.param(None, {"limit": "tokens", "of": 10}, True, id="no budget any more"),
        pytest.param({"tokens": 100, "on_spent": "finish"}, {"limit": "tokens", "of": 100}, False, id="as it was"),
        pytest.param({"tokens": 101, "on_spent": "finish"}, {"limit": "tokens", "of": 100}, True, id="raised"),
        pytest.param({"tokens": 100}, {"limit": "tokens", "of": 100}, True, id="may not end there any more"),
        pytest.param(
            {"tokens": 100, "gpu_hours": 1, "gpus": 1, "on_spent": "finish"},
            {"limit": "cost", "of": 5.0},
            True,
            id="another limit",
        ),
    ],
)
def test_a_short_harvest_goes_on_when_what_ended_it_was_raised(
    budget: dict[str, object] | None, marks: dict[str, object], expected: bool
) -> None:
    config = settings(max_tokens=10, **({} if budget is None else {"budget": budget}))
    assert goes_on(config, Report(short="x", marks={"budget": marks})) == expected


def test_cost_counts_prompts_and_never_exceeds_the_budget(problems: list[Problem], tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"budget spent \(cost\): .* of 3,000 XXX"):
        run(problems, tmp_path, settings(budget={"cost": 3000, "price": PRICE}))
    found = traces(tmp_path)
    paid = sum(trace.prompt_tokens + trace.completion_tokens for trace in found)
    assert 2000 < paid <= 3000


def trace(id_: str, prompt: int, completion: int, **fields: object) -> Trace:
    row = {
        "id": id_,
        "problem_id": "p",
        "sampler": {"name": "s", "revision": "1"},
        "params": None,
        "sample_index": 0,
        "reasoning": None,
        "answer": None,
        "text": "",
        "finish": "stop",
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        **fields,
    }
    return Trace.model_validate(row)


def test_samples_of_one_call_share_its_prompt() -> None:
    body = (
        b'{"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},'
        b' {"index": 1, "message": {"content": "b"}, "finish_reason": "stop"},'
        b' {"index": 2, "message": {"content": "c"}, "finish_reason": null}],'
        b' "usage": {"prompt_tokens": 90, "completion_tokens": 30, "prompt_cache_hit_tokens": 64}}'
    )
    whole = read(body, api="chat", n=3)
    billing = Billing(continues=False)
    said = []
    for number, one in whole.completions.items():
        told = {"together": one.together, "cached_tokens": one.cached_tokens}
        said.append(billing.of(trace(str(number), one.prompt_tokens, one.completion_tokens, **told)))
    assert [one.together for one in whole.completions.values()] == [2, 2]
    assert sum(spend.prompt for spend in said) == 90
    assert sum(spend.cached for spend in said) == 64
    assert trace("x", 1, 1).to_json().count("together") == 0, "what is alone says nothing"


def test_a_continued_thought_is_paid_for_once_and_read_again() -> None:
    billing = Billing(continues=True)
    billing.of(trace("parent", 10, 100, finish="length"))
    child = billing.of(trace("child", 10, 130, parent="parent"))
    assert (child.prompt, child.completion) == (110, 30)
    check = billing.of(trace("check", 150, 20, parent="child"))
    assert (check.prompt, check.completion) == (150, 20)


def test_a_sampler_without_a_price_is_refused_before_it_is_asked(problems: list[Problem], tmp_path: Path) -> None:
    sampler = Wide(problems)
    with pytest.raises(UserError, match="prices 'published': no price for 'oracle'"):
        run(problems, tmp_path, settings(budget={"cost": 1, "prices": "published"}), sampler)
    assert sampler.asked == []


def test_gpu_hours_price_needs_gpus(tmp_path: Path) -> None:
    hourly = {"gpu_hour": 2, "currency": "XXX", "date": "2025-01-01", "source": "x"}
    with pytest.raises(UserError, match="gpus: missing, 's' is priced by the GPU hour"):
        Account(tmp_path, BudgetConfig.model_validate({"cost": 1, "price": hourly}), ("s",))
    prices = find_prices(None, BudgetConfig.model_validate({"cost": 1, "price": hourly}).price)
    assert prices is not None
    assert prices.of("anybody").of_tokens(10**6, 0, 10**6) == 0


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        pytest.param({}, "says nothing", id="empty"),
        pytest.param({"cost": 1}, "cost: needs prices", id="cost of nothing"),
        pytest.param({"gpu_hours": 1}, "gpu_hours: needs gpus", id="hours of no GPUs"),
        pytest.param({"gpus": 1, "on_spent": "finish"}, "on_spent: nothing can be spent", id="no limit"),
        pytest.param({"tokens": MOST - 1}, "room for one sample", id="less than one sample"),
        pytest.param({"tokens": 100, "price": PRICE, "prices": "example"}, "at most one", id="two prices"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(budget: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(budget=budget)


def test_gpu_hours_stop_the_harvest_and_count_all_attempts(problems: list[Problem], tmp_path: Path) -> None:
    with Clock(tmp_path, begun=time.monotonic() - 3600) as clock:
        assert clock.setup == pytest.approx(3600, abs=1)
    with pytest.raises(StoppedError, match=r"budget spent \(gpu_hours\): .* 8 of 7 GPU hours"):
        run(problems, tmp_path, settings(budget={"gpu_hours": 7, "gpus": 8}))
    assert traces(tmp_path) == []


def test_a_killed_clock_has_lost_one_tick_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.harvest.clock.EVERY", 0.02)
    child = os.fork()
    if child == 0:
        with Clock(tmp_path):
            threading.Event().wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and sum(1 for _ in (tmp_path / CLOCK).glob("0*.jsonl")) == 0:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Clock(tmp_path) as clock:
        assert clock.seconds > 0.2


def test_spending_is_told_by_teacher(tmp_path: Path) -> None:
    row = '[models.{}]\nprompt = {}\ncompletion = {}\ndate = 2025-01-01\nsource = "x"\n'
    table = tmp_path / "p.toml"
    table.write_text('currency = "XXX"\n' + row.format("a", 1e6, 1e6) + row.format("b", 2e6, 2e6))
    request = Request("p", (Message(role="user", content="x" * 50),), Params(max_tokens=10), n=3)
    budget = BudgetConfig.model_validate({"cost": 1000, "prices": str(table)})
    said = [trace(name, 5, 4).model_copy(update={"sampler": SamplerId(name=name, revision="1")}) for name in "ab"]
    with Account(tmp_path, budget, ("a", "b")) as account:
        assert account.admits("", request, "a") == 3
        account.take("", request, said)
        assert account.spent()["cost"] == 9 + 18
        assert set(account.facts["by_sampler"]) == {"a", "b"}


def test_servers_in_trouble_come_first_and_the_rest_in_one_line() -> None:
    well = [Health(f"http://node{k}/v1", "closed", 8, 4, 10, 0, 0, None, 400) for k in range(20)]
    open_ = Health("http://node97/v1", "open", 4, 0, 3, 9, 2, None, 70)
    asked = Health("http://node98/v1", "closed", 4, 0, 3, 1, 2, 130.0, 70)
    lines = servers([*well, open_, asked], now=100.0)
    assert len(lines) == 13
    assert "node97" in lines[0]
    assert "open" in lines[0]
    assert "waits 30 s (Retry-After)" in lines[1]
    assert lines[-1] == "and 10 more, 10 of them well: 40 in flight  ok 100  failed 0"


def test_an_answer_without_usage_details_says_nothing_of_a_cache() -> None:
    body = (
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],'
        b' "usage": {"prompt_tokens": 9, "completion_tokens": 3}}'
    )
    (one,) = read(body, api="chat", n=1).completions.values()
    assert one == Completion(text="a", finish="stop", prompt_tokens=9, completion_tokens=3)


class Slow(Wide):
    """Takes a moment for every answer, so that a kill finds it at work."""

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for answered in super().sample(requests):
            time.sleep(0.002)
            yield answered


def test_kills_lose_no_count_and_a_raised_budget_ends_as_if_nothing_had_happened(
    problems: list[Problem], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(problems, whole, settings())
    rng = random.Random(0)
    for limit in (800, 800, 1600, 1600, 1600):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(StoppedError):
                run(problems, broken, settings(budget={"tokens": limit}), Slow(problems, error_rate=0.3))
            os._exit(0)
        time.sleep(rng.uniform(0.02, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with pytest.raises(StoppedError):
        run(problems, broken, settings(budget={"tokens": 1600}))
    assert 1600 - MOST < tokens(broken) <= 1600
    before = {trace.id for trace in traces(broken)}
    sampler = Wide(problems, error_rate=0.3)
    run(problems, broken, settings(budget={"tokens": 10**6}), sampler)
    assert len(sampler.asked) == 4 * len(problems) - len(before), "nothing that was stored is asked for again"
    assert {(t.id, t.text) for t in traces(broken)} == {(t.id, t.text) for t in traces(whole)}
    assert len(traces(broken)) == 4 * len(problems)


def test_the_command_stops_with_a_code_of_its_own_and_no_later_step_runs(tmp_path: Path) -> None:
    recipe, out = tmp_path / "r.toml", tmp_path / "out"
    recipe.write_text(SMALL)
    arguments = ("run", "--recipe", recipe, "--out", out)
    done = distill(*arguments, "--set", "traces.budget={tokens=300}")
    assert done.returncode == STOPPED
    assert done.stderr.strip().startswith("[traces] budget spent (tokens): ")
    assert "raise budget.tokens and run the same command to go on" in done.stderr
    assert not (out / "curate").exists()
    assert "stands beside it: budget spent" in complaint("curate", "--recipe", recipe, "--out", out)
    done = distill(*arguments, "--set", 'traces.budget={tokens=300,on_spent="finish"}')
    assert (done.returncode, (out / "curate").exists()) == (0, True)
    assert "SHORT: budget spent (tokens)" in done.stdout
    done = distill(*arguments, "--set", 'traces.budget={tokens=300,on_spent="finish"}')
    assert "done before" in done.stdout
    assert "SHORT" in done.stdout
    done = distill(*arguments)
    assert "SHORT" not in done.stdout
    assert sorted(path.name.split(".")[0] for path in out.glob("[a-z]*")) == ["curate", "curate", "problems", "traces"]
