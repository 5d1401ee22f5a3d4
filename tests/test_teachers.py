"""Several teachers in one harvest: who is asked what, whose traces they are, and what is left when one is gone."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.curate.terms import sources_of
from distill.errors import LostError, UserError
from distill.harvest import HarvestConfig, goes_on
from distill.harvest.refusals import REFUSALS, Refusal
from distill.ledger import read_ledger
from distill.records import Completion, SamplerId, Trace
from distill.runs import Manifest, Report
from distill.sampling.protocols import Answered, Request
from distill.traces.stats import stats
from tests.test_rounds import PROBLEMS, QUIET, Seeded, rates, rounds, run, traces


class Named(Seeded):
    """Seeded, under a name of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.identity = SamplerId(name=name, revision="1")


class Dying(Named):
    """Is gone after so many requests, until it is `well`."""

    def __init__(self, name: str, after: int, error: type[UserError] = LostError) -> None:
        super().__init__(name)
        self.after, self.error, self.well = after, error, False

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for number, request in enumerate(requests):
            if number >= self.after and not self.well:
                raise self.error(f"{self.identity.name}: no answer for 600 s")
            self.asked.append(request)
            yield self._answer(request)


class Refusing(Named):
    """Will not hear of some problems."""

    def __init__(self, name: str, *refused: str) -> None:
        super().__init__(name)
        self.refused = refused

    def _answer(self, request: Request) -> Answered:
        if request.id not in self.refused:
            return super()._answer(request)
        cancelled = Completion(text="", finish="cancelled", prompt_tokens=0, completion_tokens=0)
        return Answered(request, (cancelled,) * request.n, "status 400: too long")


def config(teachers: dict[str, dict[str, Any]], **tables: Any) -> HarvestConfig:
    own = {name: {"sampler": "oracle", "error_rate": 0.1, **table} for name, table in teachers.items()}
    return HarvestConfig.model_validate({"problems": "p", "max_tokens": 20, "teachers": own, **tables})


TWO = config({"a": {}, "b": {"temperature": 0.5}}, samples=2)


def both(out: Path, settings: HarvestConfig = TWO, a: Any = None, b: Any = None) -> Report:
    return run(out, settings, {"a": (a or Named("A"), ""), "b": (b or Named("B"), "")})


def by_sampler(out: Path) -> Counter[str]:
    return Counter(trace.sampler.name for trace in traces(out))


def test_teachers_give_the_traces_they_give_alone(tmp_path: Path) -> None:
    both(tmp_path / "both")
    for name, table in (("A", {}), ("B", {"temperature": 0.5})):
        alone = {"problems": "p", "sampler": "oracle", "error_rate": 0.1, "max_tokens": 20, "samples": 2, **table}
        run(tmp_path / name, HarvestConfig.model_validate(alone), Named(name))
        found = {trace.id: trace.text for trace in traces(tmp_path / "both") if trace.sampler.name == name}
        assert found == {trace.id: trace.text for trace in traces(tmp_path / name)}


def test_the_report_tells_each_teachers_yield(tmp_path: Path) -> None:
    report = both(tmp_path)
    assert report.counts["traces"] == 2 * 2 * len(PROBLEMS)
    told = report.marks["teachers"]
    assert [(name, one["sampler"]["name"], one["traces"]) for name, one in told.items()] == [
        ("a", "A", 66),
        ("b", "B", 66),
    ]
    assert told["a"]["correct"] == sum(t.text == "right" for t in traces(tmp_path) if t.sampler.name == "A")
    assert any(line.startswith("teacher b ") and "n       66" in line for line in report.lines)


def test_teachers_speak_at_the_same_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=20.0)

    class Meeting(Named):
        def _answer(self, request: Request) -> Answered:
            if len(self.asked) == 1:
                meeting.wait()  # breaks when the other is asked only after this one
            return super()._answer(request)

    both(tmp_path, a=Meeting("A"), b=Meeting("B"))


def test_shares_divide_the_problems_and_stay_with_them(tmp_path: Path) -> None:
    settings = config({"a": {"share": 0.7}, "b": {"share": 0.3}, "c": {}})
    asked = {problem.id: settings.roster.of(problem.id) for problem in PROBLEMS}
    assert set(asked.values()) == {("a", "c"), ("b", "c")}
    assert 0.5 < sum("a" in names for names in asked.values()) / len(asked) < 0.9
    run(tmp_path, settings, {name: (Named(name), "") for name in "abc"})
    who = {problem.id: {t.sampler.name for t in traces(tmp_path) if t.problem_id == problem.id} for problem in PROBLEMS}
    assert who == {id_: set(names) for id_, names in asked.items()}


def test_one_that_is_gone_costs_nobody_else_a_sample(tmp_path: Path) -> None:
    dying = Dying("B", after=10)
    with pytest.raises(LostError, match=r"teacher b: B: no answer for 600 s \(46 samples missing\)"):
        both(tmp_path, b=dying)
    assert by_sampler(tmp_path) == {"A": 66, "B": 20}
    a, dying.well = Named("A"), True
    dying.asked.clear()
    report = both(tmp_path, a=a, b=dying)
    assert (a.asked, sum(request.n for request in dying.asked)) == ([], 46), "what is missing is asked again, no more"
    assert (report.counts["missing"], by_sampler(tmp_path)) == (0, {"A": 66, "B": 66})
    assert len({trace.id for trace in traces(tmp_path)}) == 132


def test_a_harvest_may_finish_without_one_and_go_on_some_day(tmp_path: Path) -> None:
    finish = TWO.model_copy(update={"on_lost": "finish"})
    report = both(tmp_path, finish, b=Dying("B", after=10))
    assert report.short
    assert report.lines[1].startswith("SHORT: teacher b: B: no answer for 600 s (46 samples missing)")
    assert (report.counts["missing"], report.marks["lost"]) == (46, {"b": 46})
    assert (goes_on(finish, report), goes_on(TWO, report)) == (False, True)


def test_any_other_trouble_ends_all_of_them_at_once(tmp_path: Path) -> None:
    class Endless(Named):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            for request in requests:
                self.asked.append(request)
                yield self._answer(request)
                wrong.wait(20.0)

    wrong = threading.Event()

    class Wrong(Dying):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            try:
                yield from super().sample(requests)
            finally:
                wrong.set()

    a = Endless("A")
    with pytest.raises(UserError, match="B: no answer"):
        both(tmp_path, a=a, b=Wrong("B", 3, UserError))
    assert len(a.asked) < len(PROBLEMS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("teacher")]


def test_rounds_deal_samples_to_teachers_in_turn(tmp_path: Path) -> None:
    settings = config({"a": {}, "b": {}}, rounds={"samples": [3, 3]})
    both(tmp_path, settings)
    first, second = rounds(tmp_path)[:2]
    assert [(w["teacher"], w["first"], w["n"]) for w in first["wanted"][:2]] == [("a", 0, 2), ("b", 0, 1)]
    assert [(w["teacher"], w["first"], w["n"]) for w in second["wanted"][:2]] == [("a", 2, 1), ("b", 1, 2)]
    assert by_sampler(tmp_path) == {"A": 99, "B": 99}


def test_a_cascade_asks_the_second_only_what_the_first_left_unsolved(tmp_path: Path) -> None:
    settings = config({"a": {}, "b": {}}, rounds={"samples": [4, 4], "until_verified": 1, "teachers": ["a", "b"]})
    both(tmp_path, settings)
    solved = {t.problem_id for t in traces(tmp_path) if t.sampler.name == "A" and t.text == "right"}
    asked = {t.problem_id for t in traces(tmp_path) if t.sampler.name == "B"}
    assert solved
    assert asked == {problem.id for problem in PROBLEMS} - solved


def test_rounds_with_several_resume_what_they_froze(tmp_path: Path) -> None:
    settings = config({"a": {}, "b": {}}, rounds={"samples": [4, 4], "until_verified": 2})
    both(tmp_path / "whole", settings)
    dying = Dying("B", after=5)
    with pytest.raises(LostError):
        both(tmp_path / "cut", settings, b=dying)
    dying.well = True
    both(tmp_path / "cut", settings, b=dying)
    assert {t.id: t.text for t in traces(tmp_path / "cut")} == {t.id: t.text for t in traces(tmp_path / "whole")}
    assert rounds(tmp_path / "cut") == rounds(tmp_path / "whole")


def test_a_refused_problem_is_kept_with_its_reason_and_never_asked_again(tmp_path: Path) -> None:
    settings = HarvestConfig.model_validate(
        {"problems": "p", "sampler": "oracle", "error_rate": 0.1, "max_tokens": 20, "samples": 2}
    )
    report = run(tmp_path, settings, Refusing("A", "p3"))
    assert (report.counts["refused"], report.counts["missing"], report.counts["traces"]) == (2, 0, 64)
    told = "\n".join(report.lines)
    assert "2 samples of 1 problems refused" in told
    assert "2 x status 400: too long" in told
    kept = list(read_ledger(tmp_path / REFUSALS, Refusal))
    assert [(row.problem_id, row.sample_index, row.why) for row in kept] == [
        ("p3", 0, "status 400: too long"),
        ("p3", 1, "status 400: too long"),
    ]
    again = Refusing("A", "p3")
    assert run(tmp_path, settings, again).counts["refused"] == 2
    assert again.asked == []


def test_a_refusal_torn_by_a_kill_is_cut_and_stops_nothing(tmp_path: Path) -> None:
    settings = HarvestConfig.model_validate(
        {"problems": "p", "sampler": "oracle", "error_rate": 0.1, "max_tokens": 20, "samples": 2}
    )
    run(tmp_path, settings, Refusing("A", "p3"))
    shard = tmp_path / REFUSALS / "0000.jsonl"
    whole = shard.read_bytes()
    (tmp_path / REFUSALS / "SHA256SUMS").unlink()
    shard.write_bytes(whole + whole[:70])
    assert stats(tmp_path, problems=tmp_path / "problems.jsonl", progress=QUIET).refused
    assert run(tmp_path, settings, Refusing("A", "p3")).counts["refused"] == 2
    assert shard.read_bytes() == whole


def test_a_refused_problem_is_given_up_though_no_round_is_left(tmp_path: Path) -> None:
    both(tmp_path, config({"a": {}, "b": {}}, rounds={"samples": [2]}), Refusing("A", "p3"), Refusing("B", "p3"))
    given_up = {name: rate.given_up for name, rate in rates(tmp_path).items() if rate.given_up}
    assert given_up == {"p3": "refused: status 400: too long"}


def test_a_problem_all_its_teachers_refuse_is_given_up_in_rounds(tmp_path: Path) -> None:
    settings = config({"a": {}, "b": {}}, rounds={"samples": [2, 2, 2], "until_verified": 9})
    a, b = Refusing("A", "p3", "p4"), Refusing("B", "p3")
    both(tmp_path, settings, a, b)
    asked = Counter(request.id for request in a.asked)
    assert (asked["p3"], asked["p4"]) == (1, 1), "once refused, a teacher is not asked about it in later rounds"
    assert rates(tmp_path)["p3"].given_up == "refused: status 400: too long"
    assert rates(tmp_path)["p4"].n == 6, "the other makes up for what was refused"


def test_who_trains_on_the_traces_is_asked_of_each_teacher(tmp_path: Path) -> None:
    settings = config({"a": {}, "b": {"sampler": "replay", "error_rate": None, "replay": {"recording": "x"}}})
    report = both(tmp_path, settings, b=Named("gpt-4"))
    known = {"step": "h", "stage": "harvest", "stage_version": "1", "fingerprint": "f", "seed": 0, "inputs": []}
    times = {"versions": {}, "git_commit": None, "device": "", "started": "", "seconds": 0, "resumed": 0}
    manifest = Manifest.model_validate({**known, **times, "config": {"sampler": "engine"}, "report": report})
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    terms = [(source.teacher, source.terms, source.traces) for source in sources_of(tmp_path)]
    assert terms[0] == ("A", "allows-training", 33)
    assert terms[1][0] == "gpt-4"
    assert terms[1][1] != "allows-training"


ORACLE = {"sampler": "oracle", "error_rate": 0.1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"teachers": {"a": ORACLE}, "sampler": "oracle"}, "sampler: there are teachers; say it in their tables"),
        ({"teachers": {"a": ORACLE}, "dtype": "bfloat16"}, "dtype: there are teachers"),
        ({"teachers": {}}, "at least 1"),
        ({"teachers": {"a b": ORACLE}}, "teachers.a b: not a name"),
        ({"teachers": {"a": {"model": "m", "batch": 3}}}, "batch: sampler 'engine' has no use for it"),
        ({"teachers": {"a": {**ORACLE, "top_k": 3}}}, "top_k: sampler 'oracle' has no use for it"),
        ({"teachers": {"a": {**ORACLE, "share": 0.5}}}, "their shares add up to 0.5, expected 1"),
        ({"teachers": {"a": ORACLE}, "verify": {}}, "verify: with several teachers it needs rounds"),
        ({"teachers": {"a": ORACLE}, "rounds": {"samples": [1, 1], "teachers": ["a"]}}, "expected one a round"),
        ({"teachers": {"a": ORACLE}, "rounds": {"samples": [1], "teachers": ["b"]}}, "no teacher 'b'; there are a"),
        ({**ORACLE, "rounds": {"samples": [1], "teachers": ["b"]}}, "no teacher 'b'; there are none"),
        (
            {"teachers": {"a": ORACLE, "b": ORACLE}, "rounds": {"samples": [1], "teachers": ["a"]}},
            "rounds.teachers: no round asks b",
        ),
        ({"teachers": {"a": {**ORACLE, "samples": 2}}, "rounds": {"samples": [1]}}, "rounds.samples says how many"),
        (
            {"teachers": {name: {"model": "m", "tensor_parallel": 2} for name in "ab"}},
            "a and b are split over processes; only one may be",
        ),
        (
            {"teachers": {"a": ORACLE}, "forcing": {"max_tokens": 3}, "rounds": {"samples": [1]}},
            "forcing: sampler 'oracle' does not read",
        ),
        ({"model": "m", "sampler": "transformers", "dtype": "fp8"}, "fp8 is the engine's"),
        ({"model": "m", "sampler": "transformers", "weights": "int8"}, "weights: sampler 'transformers' has no use"),
    ],
)
def test_tables_that_make_no_sense_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HarvestConfig.model_validate({"problems": "p", "max_tokens": 20, **table})


def test_a_teacher_has_from_the_harvest_what_its_sampler_knows() -> None:
    table = {"problems": "p", "max_tokens": 20, "temperature": 0.6, "top_k": 5, "samples": 3, "top_logprobs": 2}
    teachers = {"a": {"model": "m", "temperature": 1.0}, "b": ORACLE}
    settings = HarvestConfig.model_validate({**table, "teachers": teachers})
    a, b = settings.teachers["a"], settings.teachers["b"]  # type: ignore[index]
    assert (a.temperature, a.top_k, a.top_logprobs, a.samples, a.max_tokens) == (1.0, 5, 2, 3, 20)
    assert (b.temperature, b.top_k, b.top_logprobs, b.samples) == (0.6, 0, None, 3)
    assert settings.models == ("m",)
    assert HarvestConfig.model_validate(settings.model_dump(exclude_unset=True)) == settings


def test_two_that_would_draw_the_same_samples_are_refused(tmp_path: Path) -> None:
    same = config({"a": {}, "b": {}})
    with pytest.raises(UserError, match="teachers a and b: A asked twice in the same way"):
        both(tmp_path, same, b=Named("A"))
    both(tmp_path, config({"a": {}, "b": {"seed": 1}}), b=Named("A"))


def test_temperatures_of_rounds_do_not_part_two_teachers(tmp_path: Path) -> None:
    hot = {"rounds": {"samples": [2], "temperatures": [0.7]}}
    with pytest.raises(UserError, match=r"asked twice in the same way; .* another seed \(rounds.temperatures"):
        both(tmp_path, config({"a": {}, "b": {"temperature": 0.5}}, **hot), b=Named("A"))
    both(tmp_path, config({"a": {}, "b": {"seed": 1}}, **hot), b=Named("A"))
    assert len({trace.id for trace in traces(tmp_path)}) == len(traces(tmp_path)) == 2 * len(PROBLEMS)


def test_a_table_without_teachers_is_what_it_was() -> None:
    """The keys a step's fingerprint is made of; a new one would have every harvest made again."""
    alone = HarvestConfig.model_validate({"problems": "p", "max_tokens": 20, **ORACLE})
    assert not {"teachers", "batch", "models"} & alone.model_dump(mode="json").keys()
    assert "on_lost" in HarvestConfig.limits
    rounded = HarvestConfig.model_validate({"problems": "p", "max_tokens": 9, "rounds": {"samples": [1]}, **ORACLE})
    assert "teachers" not in rounded.model_dump(mode="json")["rounds"]


def test_a_continued_beginning_is_counted_once_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distill.progress as progress
    from tests import test_forcing

    counted = 0

    def advance(self: progress.Task, count: int = 1, *, tokens: int = 0, facts: str = "") -> None:
        nonlocal counted
        counted += tokens

    monkeypatch.setattr(progress.Task, "advance", advance)
    found = test_forcing.run(tmp_path, test_forcing.config(forcing={"max_tokens": 6, "times": 3}), test_forcing.Slow())
    assert counted == sum(t.completion_tokens for t in found if t.finish == "stop")


def test_stored_traces_name_their_teacher(tmp_path: Path) -> None:
    both(tmp_path)
    assert {trace.params.temperature for trace in _of(tmp_path, "B") if trace.params} == {0.5}


def _of(out: Path, name: str) -> list[Trace]:
    return [trace for trace in traces(out) if trace.sampler.name == name]


def test_refusals_are_told_with_the_stored_traces(tmp_path: Path) -> None:
    settings = HarvestConfig.model_validate(
        {"problems": "p", "sampler": "oracle", "error_rate": 0.1, "max_tokens": 20, "samples": 2}
    )
    run(tmp_path, settings, Refusing("A", "p3"))
    found = stats(tmp_path, problems=tmp_path / "problems.jsonl", progress=QUIET)
    assert found.refused == {"A: status 400: too long": 2}
    assert "  2 x A: status 400: too long" in found.lines
