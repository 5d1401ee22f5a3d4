"""Harvest asks once for every sample, says the same whenever it is asked, and counts what came."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill.errors import UserError
from distill.harvest import HarvestConfig, Judged, harvest, problem_seed, sample_and_judge
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.problems.families import family
from distill.problems.stage import draw
from distill.progress import Progress
from distill.prompts import to_trace
from distill.records import Completion, Params, Problem, SamplerId, Trace, Verdict
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Answered, Request

QUIET = Progress("quiet")
PARAMS = Params(max_tokens=200)


class Watched(OracleSampler):
    """The oracle, with everything it is asked written down. `stop_after` requests it is interrupted."""

    def __init__(self, problems: Iterable[Problem], *, error_rate: float = 0.0, stop_after: int | None = None) -> None:
        super().__init__(problems, error_rate=error_rate)
        self.asked: list[Request] = []
        self.stop_after = stop_after

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for answered in super().sample(requests):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(answered.request)
            yield answered


class Comparing:
    """Right when the answer is the problem's own. Reads `ahead` pairs before it says anything."""

    def __init__(self, ahead: int = 1) -> None:
        self.ahead = ahead
        self.judged: list[str] = []

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        held: list[tuple[Problem, Trace]] = []
        for pair in pairs:
            held.append(pair)
            if len(held) == self.ahead:
                yield from map(self._judge, held)
                held = []
        yield from map(self._judge, held)

    def _judge(self, pair: tuple[Problem, Trace]) -> Verdict:
        problem, trace = pair
        self.judged.append(trace.id)
        said = problem.answer if problem.answer is not None else problem.solution
        status = "truncated" if trace.finish == "length" else "correct" if trace.answer == said else "wrong"
        return Verdict.model_validate({"trace_id": trace.id, "judge_version": "test", "status": status})


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    stories = family("stories")
    return [row for level in (1, 2, 3) for row in draw(stories, level, "train", 8, seed=0).problems]


def run(problems: list[Problem], out: Path, sampler: OracleSampler, n: int = 3, **options: object) -> list[Judged]:
    judge = options.pop("judge", Comparing())
    return list(
        sample_and_judge(problems, out, PARAMS, n, sampler=sampler, judge=judge, seed=0, progress=QUIET, **options)  # type: ignore[arg-type]
    )


def texts(out: Path) -> dict[tuple[str, int], str]:
    return {(trace.problem_id, trace.sample_index): trace.text for trace in read_ledger(out / "traces", Trace)}


def test_every_problem_gets_n_traces_and_each_trace_its_verdict(problems: list[Problem], tmp_path: Path) -> None:
    rows = run(problems, tmp_path, OracleSampler(problems, error_rate=0.5))
    assert Counter(row.problem.id for row in rows) == {problem.id: 3 for problem in problems}
    verdicts = [verdict.trace_id for verdict in read_ledger(tmp_path / "verdicts", Verdict)]
    assert verdicts == [trace.id for trace in read_ledger(tmp_path / "traces", Trace)]
    assert {row.verdict.status for row in rows if row.verdict} == {"correct", "wrong"}


def test_a_finished_harvest_asks_nothing_again_and_yields_the_same_rows(
    problems: list[Problem], tmp_path: Path
) -> None:
    first = run(problems, tmp_path, OracleSampler(problems))
    sampler, judge = Watched(problems), Comparing()
    again = run(problems, tmp_path, sampler, judge=judge)
    assert (sampler.asked, judge.judged) == ([], [])
    assert all(row.resumed for row in again)
    assert [(row.trace, row.verdict) for row in again] == [(row.trace, row.verdict) for row in first]


@pytest.mark.parametrize("ahead", [1, 7, 1000])
def test_an_interrupted_harvest_asks_only_for_the_rest(problems: list[Problem], tmp_path: Path, ahead: int) -> None:
    whole = tmp_path / "whole"
    run(problems, whole, OracleSampler(problems, error_rate=0.5))
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(problems, broken, Watched(problems, error_rate=0.5, stop_after=10), judge=Comparing(ahead))
    rest, judge = Watched(problems, error_rate=0.5), Comparing(ahead)
    rows = run(problems, broken, rest, judge=judge)
    assert [request.id for request in rest.asked] == [problem.id for problem in problems[10:]]
    assert texts(broken) == texts(whole)
    assert Counter(row.trace.id for row in rows) == Counter(trace.id for trace in read_ledger(whole / "traces", Trace))
    judged = [verdict.trace_id for verdict in read_ledger(broken / "verdicts", Verdict)]
    assert len(judged) == len(set(judged)) == 3 * len(problems)


def test_holes_in_the_middle_are_asked_with_their_own_seeds(problems: list[Problem], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(problems[:1], whole, OracleSampler(problems, error_rate=0.5), n=6)
    holed = tmp_path / "holed"
    for index in (1, 4):
        run(problems[:1], holed, _Only(problems, index), n=6)
    sampler = Watched(problems, error_rate=0.5)
    run(problems[:1], holed, sampler, n=6)
    assert [(request.first, request.n) for request in sampler.asked] == [(0, 1), (2, 2), (5, 1)]
    assert texts(holed) == texts(whole)


class _Only(OracleSampler):
    """Answers one sample of a request; the others were cancelled."""

    def __init__(self, problems: Iterable[Problem], index: int) -> None:
        super().__init__(problems, error_rate=0.5)
        self.index = index

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for answered in super().sample(requests):
            kept = [
                said if k + answered.request.first == self.index else said.model_copy(update={"finish": "cancelled"})
                for k, said in enumerate(answered.completions)
            ]
            yield Answered(answered.request, tuple(kept))


def test_a_sample_does_not_depend_on_what_is_asked_beside_it(problems: list[Problem], tmp_path: Path) -> None:
    run(problems, tmp_path / "all", OracleSampler(problems, error_rate=0.5))
    run(problems[5:6], tmp_path / "one", OracleSampler(problems, error_rate=0.5))
    assert texts(tmp_path / "one").items() <= texts(tmp_path / "all").items()


def test_another_seed_round_or_template_is_other_traces_in_the_same_ledger(
    problems: list[Problem], tmp_path: Path
) -> None:
    sampler = Watched(problems)
    for options in ({}, {"round": 1}, {"template": "b"}):
        run(problems[:2], tmp_path, sampler, n=1, **options)
    traces = list(read_ledger(tmp_path / "traces", Trace))
    assert len({trace.id for trace in traces}) == len(traces) == 6
    assert len({request.seed for request in sampler.asked}) == 4, "rounds draw with other seeds, templates do not"


def test_a_trace_a_kill_left_without_verdict_is_judged_but_not_sampled_again(
    problems: list[Problem], tmp_path: Path
) -> None:
    run(problems, tmp_path, OracleSampler(problems), judge=None)
    sampler, judge = Watched(problems), Comparing()
    rows = run(problems, tmp_path, sampler, judge=judge)
    assert (len(sampler.asked), len(judge.judged)) == (0, 72)
    assert all(row.resumed and row.verdict for row in rows)


def test_a_verdict_that_outlived_its_trace_is_replaced(problems: list[Problem], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(problems[:2], tmp_path, Watched(problems, stop_after=1), n=1)
    shard = tmp_path / "traces" / "0000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-9])
    judge = Comparing()
    rows = run(problems[:2], tmp_path, OracleSampler(problems), n=1, judge=judge)
    assert len(judge.judged) == len(rows) == 2


def test_a_judge_out_of_order_is_our_own_fault(problems: list[Problem], tmp_path: Path) -> None:
    class Backwards(Comparing):
        def prepare(self, problems: Iterable[Problem]) -> None:
            """Nothing to start."""

        def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
            yield from map(self._judge, reversed(list(pairs)))

    with pytest.raises(AssertionError, match="in order"):
        run(problems, tmp_path, OracleSampler(problems), judge=Backwards())


def write(problems: list[Problem], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "problems.jsonl", problems)
    return folder


def config(**fields: object) -> HarvestConfig:
    return HarvestConfig.model_validate(
        {"problems": "problems", "sampler": "oracle", "error_rate": 0.25, "max_tokens": 200, "samples": 4, **fields}
    )


def test_the_report_counts_verdicts_tokens_and_the_yield_of_every_level(
    problems: list[Problem], tmp_path: Path
) -> None:
    folder, settings = write(problems, tmp_path / "problems"), config()
    sampler = OracleSampler(problems, error_rate=0.25)
    report = harvest(folder, tmp_path / "out", settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)
    traces = list(read_ledger(tmp_path / "out" / "traces", Trace))
    assert report.counts["traces"] == len(traces) == 96
    assert report.counts["correct"] + report.counts["wrong"] == 96
    assert report.tokens == sum(trace.completion_tokens for trace in traces)
    assert {name: row["n"] for name, row in report.marks["yield"].items()} == {
        f"stories/level-{level}": 32 for level in (1, 2, 3)
    }
    assert sum(row["correct"] for row in report.marks["yield"].values()) == report.counts["correct"]
    assert report.marks["sampler"]["name"] == "oracle"


def test_deferred_verdicts_leave_the_traces_unjudged(problems: list[Problem], tmp_path: Path) -> None:
    folder = write(problems, tmp_path / "problems")
    settings = config(defer_verdicts=True)
    sampler = OracleSampler(problems, error_rate=0.25)
    report = harvest(folder, tmp_path / "out", settings, sampler=sampler, judge=None, seed=0, progress=QUIET)
    assert report.counts["unjudged"] == 96
    assert list(read_ledger(tmp_path / "out" / "verdicts", Verdict)) == []


def test_truncated_traces_are_stored_and_counted_apart(problems: list[Problem], tmp_path: Path) -> None:
    folder, sampler = write(problems, tmp_path / "problems"), OracleSampler(problems, error_rate=0.25)
    settings = config(max_tokens=5)
    report = harvest(folder, tmp_path / "out", settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)
    assert report.counts["truncated"] == 96
    assert all(trace.answer is None for trace in read_ledger(tmp_path / "out" / "traces", Trace))


def test_a_sampler_that_answers_nothing_is_a_user_error(problems: list[Problem], tmp_path: Path) -> None:
    class Mute(OracleSampler):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            yield from (Answered(request, ()) for request in requests)

    folder = write(problems, tmp_path / "problems")
    with pytest.raises(UserError, match="oracle completed none of 96 samples"):
        harvest(folder, tmp_path, config(), sampler=Mute(problems), judge=Comparing(), seed=0, progress=QUIET)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"sampler": "engine", "error_rate": None}, "model: missing", id="engine without model"),
        pytest.param({"model": "teacher"}, "model: only sampler 'engine'", id="model nobody uses"),
        pytest.param({"error_rate": None}, "error_rate: missing", id="oracle that will not say how often it errs"),
        pytest.param({"sampler": "replay", "error_rate": None}, "replay: missing", id="replay of nothing"),
        pytest.param({"samples": 0}, "greater than 0", id="no samples"),
        pytest.param({"top_p": 0}, "greater than 0", id="top_p of nothing"),
        pytest.param({"temprature": 1}, "Extra inputs", id="misspelt key"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**fields)


def answer(text: str, finish: str = "stop", reasoning: str | None = None) -> Completion:
    said = {"text": text, "finish": finish, "prompt_tokens": 1, "completion_tokens": 2, "reasoning": reasoning}
    return Completion.model_validate(said)


@pytest.mark.parametrize(
    ("completion", "think_open", "expected"),
    [
        pytest.param(
            answer("<think> a </think> b"), False, ("a", "b", "<think> a </think> b"), id="thought and answer"
        ),
        pytest.param(answer("a </think> b"), True, ("a", "b", "a </think> b"), id="the prompt opened the thought"),
        pytest.param(answer("a", "length"), True, (None, None, "a"), id="cut inside the thought"),
        pytest.param(answer("b"), False, (None, "b", "b"), id="no thought"),
        pytest.param(answer("b", "stop", "a"), False, ("a", "b", "<think> a </think> b"), id="server parts them"),
        pytest.param(answer("b", "stop", "a"), True, ("a", "b", "<think> a </think> b"), id="parted beats think_open"),
        pytest.param(answer("", "length", "a"), False, (None, None, "<think> a"), id="server cut inside the thought"),
        pytest.param(answer("b", "stop", ""), False, (None, "b", "b"), id="server with an empty thought"),
    ],
)
def test_a_completion_becomes_thought_answer_and_text(
    completion: Completion, think_open: bool, expected: tuple[str | None, str | None, str]
) -> None:
    trace = to_trace(
        completion,
        think_open=think_open,
        id="t",
        problem_id="p",
        sampler=SamplerId(name="s", revision="1"),
        params=PARAMS,
        sample_index=0,
    )
    assert (trace.reasoning, trace.answer, trace.text) == expected


def test_the_instruction_reaches_the_sampler_and_the_id(problems: list[Problem], tmp_path: Path) -> None:
    folder = write(problems[:1], tmp_path / "problems")
    for instruction in ("none", "step-by-step"):
        sampler, settings = Watched(problems), config(instruction=instruction, samples=1)
        harvest(folder, tmp_path, settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)
        (request,) = sampler.asked
        assert request.messages[0].content.startswith(problems[0].prompt)
        assert ("\\boxed" in request.messages[0].content) == (instruction == "step-by-step")
    ids = {trace.id for trace in read_ledger(tmp_path / "traces", Trace)}
    assert len(ids) == 2


def test_seeds_fit_the_32_bits_servers_take() -> None:
    seeds = {problem_seed(seed, f"p{number}") for seed in range(3) for number in range(1000)}
    assert len(seeds) == 3000
    assert max(seeds) + 1_000_000 < 2**31


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        pytest.param({"sampler": "oracle", "error_rate": 0.1, "cache_gb": 1.0}, "cache_gb", id="oracle has no cache"),
        pytest.param({"sampler": "oracle", "error_rate": 0.1, "min_p": 0.1}, "min_p", id="oracle has no filter"),
        pytest.param({"sampler": "oracle", "error_rate": 0.1, "weights": "int8"}, "weights", id="nor weights"),
    ],
)
def test_what_only_the_engine_can_do_is_refused_elsewhere(fields: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: sampler 'oracle' has no use for it"):
        HarvestConfig.model_validate({"problems": "p", "max_tokens": 5, **fields})


class Fixed:
    """A sampler that says 1."""

    identity = SamplerId(name="fixed", revision="1")
    think_open = False

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            said = Completion(text="1", finish="stop", prompt_tokens=1, completion_tokens=1)
            yield Answered(request, (said,) * request.n)


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        pytest.param(
            {}, ["c798497a41400f59", "0b1114b6788d89ac", "2ecd6e51c84b7809", "8f577d20f7059123"], id="defaults"
        ),
        pytest.param(
            {"seed": 3, "temperature": 0.6, "top_p": 0.9, "instruction": "step-by-step"},
            ["7142cd300dbca872", "49b020dcef1bcdb2", "8fee7f51e6b5eba4", "b22f6936599e632c"],
            id="all that is hashed",
        ),
    ],
)
def test_trace_ids_are_those_of_0_1_0(fields: dict[str, object], ids: list[str], tmp_path: Path) -> None:
    """Written down from the first version: other ids would pay for every stored harvest again."""
    asked = [
        Problem(id=f"p{i}", kind="answer", prompt=f"{i} + 1", answer=str(i + 1), source="x", split="train")
        for i in range(2)
    ]
    settings = config(samples=2, max_tokens=9, defer_verdicts=True, **fields)
    harvest(
        write(asked, tmp_path / "problems"),
        tmp_path,
        settings,
        sampler=Fixed(),  # type: ignore[arg-type]
        judge=None,
        seed=1,
        progress=QUIET,
        chat_fingerprint="abc",
    )
    assert [trace.id for trace in read_ledger(tmp_path / "traces", Trace)] == ids
