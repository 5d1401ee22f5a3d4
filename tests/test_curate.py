"""Curate keeps what may be learned from, says why the rest may not, and gives the same bytes again."""

import math
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill.curate import CurateConfig, Inputs, curate
from distill.errors import UserError
from distill.progress import Progress
from distill.records import Example
from tests.curate_world import LONG, World, problem


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("sample", "verified", "everything"),
    [
        pytest.param({}, None, None, id="correct"),
        pytest.param({"status": "wrong"}, "wrong", None, id="wrong"),
        pytest.param({"status": "unparsed"}, "unparsed", None, id="unparsed"),
        pytest.param({"status": "timeout"}, "timeout", None, id="a timeout is not a wrong answer"),
        pytest.param({"status": "gold_bad"}, "gold_bad", None, id="the gold answer is bad"),
        pytest.param({"status": "undecided"}, "undecided", None, id="undecided"),
        pytest.param({"status": None}, "unjudged", None, id="never judged"),
        pytest.param({"finish": "length", "status": "truncated"}, "unfinished", "unfinished", id="cut by the limit"),
        pytest.param({"finish": "length"}, "unfinished", "unfinished", id="cut after a right answer"),
        pytest.param({"isolation": "in-process"}, "not-isolated", None, id="program beside its judge"),
        pytest.param({"isolation": "none"}, "not-isolated", None, id="program without a sandbox"),
        pytest.param({"isolation": "process"}, None, None, id="program in a process of its own"),
        pytest.param({"reasoning": None, "answer": ""}, "empty", "empty", id="said nothing"),
        pytest.param({"problem_id": "exam"}, "test-split", "test-split", id="answers an exam question"),
    ],
)
def test_every_trace_is_kept_or_dropped_for_its_reason(
    world: World, sample: dict[str, str], verified: str | None, everything: str | None
) -> None:
    world.say("p2", "always kept")
    odd = world.say(**sample)  # type: ignore[arg-type]
    for keep, reason in (("verified", verified), ("all", everything)):
        world.curate(keep=keep)
        assert world.dropped() == ({} if reason is None else {odd: reason})
        assert set(world.kept()) == {"t00"} | ({odd} if reason is None else set())


@pytest.mark.parametrize(
    ("fields", "sample", "content"),
    [
        pytest.param({}, {}, "<think> so </think> 1", id="thought and answer"),
        pytest.param({}, {"reasoning": None}, "1", id="an answer without thought gets no empty tags"),
        pytest.param({"thought": "drop"}, {}, "1", id="answers only"),
        pytest.param({"keep": "all"}, {"reasoning": None, "answer": None}, "said ", id="raw text as it came"),
        pytest.param(
            {"keep": "all"},
            {"reasoning": None, "answer": None, "think_open": True},
            "<think> said ",
            id="raw text with the tag its prompt held",
        ),
    ],
)
def test_the_assistant_turn_is_what_the_student_is_to_say(
    world: World, fields: dict[str, str], sample: dict[str, str], content: str
) -> None:
    world.say(**sample)  # type: ignore[arg-type]
    world.curate(**fields)  # type: ignore[arg-type]
    (example,) = world.examples()
    assert [(turn.role, turn.content) for turn in example.messages] == [("user", "first"), ("assistant", content)]


def test_an_answers_only_row_without_an_answer_is_dropped(world: World) -> None:
    world.say()
    silent = world.say(reasoning=None, answer=None)
    world.curate(keep="all", thought="drop")
    assert world.dropped() == {silent: "empty"}


def test_verdicts_reached_beside_the_program_can_be_believed_on_demand_but_never_without_a_sandbox(
    world: World,
) -> None:
    beside, bare = world.say(text="a", isolation="in-process"), world.say(text="b", isolation="none")
    world.curate(in_process="keep")
    assert (world.kept(), world.dropped()) == ([beside], {bare: "not-isolated"})


def test_the_first_of_two_equal_texts_stays(world: World) -> None:
    first, same = world.say("p1", " a  b"), world.say("p1", " a b\n")
    other = world.say("p2", " a b")
    world.curate()
    assert (world.kept(), world.dropped()) == ([first, other], {same: "duplicate"})


def test_of_equal_texts_the_correct_one_stays_wherever_it_stands(world: World) -> None:
    world.problems[1] = world.problems[0].model_copy(update={"id": "p2"})
    wrong, right = world.say("p1", "a", "wrong"), world.say("p2", "a")
    world.curate(policies=("verified",))
    assert (world.kept(), world.dropped()) == ([right], {wrong: "duplicate"})


def test_answers_only_rows_are_compared_after_the_thought_is_gone(world: World) -> None:
    first, second = world.say(text="a"), world.say(text="b")
    world.curate(thought="drop")
    assert (world.kept(), world.dropped()) == ([first], {second: "duplicate"})


def test_a_problem_gives_at_most_so_many_examples(world: World) -> None:
    ids = [world.say("p1", str(number)) for number in range(4)] + [world.say("p2")]
    world.curate(max_per_problem=2)
    assert world.kept() == [ids[0], ids[1], ids[4]]
    assert world.dropped() == {ids[2]: "over-quota", ids[3]: "over-quota"}


def test_a_contaminated_trace_takes_no_place_of_a_clean_one(world: World) -> None:
    world.exam = [problem("exam", LONG, split="test")]
    world.say("p1", f" {LONG}")
    clean = world.say("p1", "clean")
    world.curate(max_per_problem=1)
    assert world.kept() == [clean]


class Words:
    """A chat whose tokens are words."""

    def training_ids(self, messages):  # type: ignore[no-untyped-def]
        ids = list(range(sum(len(message.content.split()) for message in messages)))
        return ids, [1] * len(ids)


def test_examples_over_the_token_limit_are_dropped_and_the_others_counted(world: World) -> None:
    short, long = world.say(text=" a"), world.say(text=" a b c d e")
    world.curate(chat=Words(), max_tokens=7, tokenizer="student-init")
    assert world.dropped() == {long: "too-long"}
    assert [(row.trace_id, row.tokens) for row in world.examples()] == [(short, 6)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        pytest.param("none", ["t02", "t03", "t00", "t01"], id="as the problems stand"),
        pytest.param("length", ["t03", "t01", "t02", "t00"], id="short first"),
    ],
)
def test_examples_stand_in_the_order_asked_for(world: World, order: str, expected: list[str]) -> None:
    for problem_id, text in (("p3", "ccccccc"), ("p3", "bb"), ("p1", "aaaa"), ("p1", "a")):
        world.say(problem_id, text)
    world.curate(order=order)
    assert world.kept() == expected
    assert [row.order for row in world.examples()] == [0, 1, 2, 3]


def test_easy_levels_come_first_shuffled_by_the_seed(world: World) -> None:
    for number in range(30):
        world.say(f"p{number % 3 + 1}", str(number))
    world.curate(order="level", out="out", seed=0)
    world.curate(order="level", out="other", seed=1)
    level = {"p1": 1, "p2": 2, "p3": 3}
    for out in ("out", "other"):
        assert [level[row.problem_id] for row in world.examples(out)] == [1] * 10 + [2] * 10 + [3] * 10
    assert world.kept("out") != world.kept("other")
    assert world.kept("out")[:10] != sorted(map(str, world.kept("out")[:10]))


def test_the_same_harvest_gives_the_same_bytes_whatever_the_order_in_the_ledger(world: World) -> None:
    for number in range(12):
        world.say(f"p{number % 3 + 1}", str(number % 7), status="wrong" if number % 5 == 0 else "correct")
    world.curate(order="level")
    again = World(world.folder / "again")
    again.folder.mkdir()
    again.samples = world.samples[::-1]
    again.curate(order="level")
    for name in ("examples.jsonl", "examples.parquet", "card.md", "history.jsonl", "decontamination.jsonl"):
        assert (world.folder / "out" / name).read_bytes() == (again.folder / "out" / name).read_bytes(), name


def test_the_parquet_file_holds_the_same_rows(world: World) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    world.say("p1", "ünï\n")
    world.say("p2", "b")
    world.curate()
    rows = parquet.read_table(world.folder / "out" / "examples.parquet").to_pylist()
    assert [Example.model_validate(row) for row in rows] == world.examples()


def test_the_report_and_card_count_every_step(world: World) -> None:
    world.exam = [problem("exam", LONG, split="test")]
    for sample in ({}, {}, {"status": "wrong"}, {"text": f" {LONG}"}, {"finish": "length"}, {"problem_id": "p2"}):
        world.say(**sample)  # type: ignore[arg-type]
    report = world.curate()
    assert report.counts == {
        "traces": 6,
        "examples": 2,
        "unfinished": 1,
        "wrong": 1,
        "duplicate": 1,
        "contaminated-trace": 1,
    }
    assert report.marks["decontaminated"] == {
        "against": {"stories": 1},
        "method": "13-gram",
        "removed": 1,
        "flagged": 0,
    }
    card = (world.folder / "out" / "card.md").read_text()
    for line in (
        "| verified | 5 | 4 | wrong 1 |",
        "| oracle 1 | 6 |",
        "| correct | 5 |",
        "| stories | 2 | 1 | 1 |",
        f"SHA-256 prefix `{report.marks['examples']}`",
        "Method `13-gram` against stories (1): 1 traces removed, 0 flagged.",
    ):
        assert line in card
    assert str(world.folder) not in card


def test_every_match_is_listed_with_its_words(world: World) -> None:
    world.exam = [problem("exam", f"start {LONG} end", split="test")]
    world.problems[1] = problem("p2", f"Zero ONE, {LONG.removeprefix('one ')}; end!", level=2)
    world.say("p1", f" then {LONG.upper()} END of it")
    world.say("p2", "a")
    world.say("p2", "b")
    world.say("p3")
    world.curate()
    found = [(match.where, match.problem_id, match.trace_id, match.span) for match in world.matches()]
    assert found == [("trace", "p1", "t00", f"{LONG} end"), ("prompt", "p2", None, f"{LONG} end")]
    assert Counter(world.dropped().values()) == {"contaminated-trace": 1, "contaminated-prompt": 2}


def test_a_harvest_of_which_nothing_is_kept_is_refused_with_the_reasons(world: World) -> None:
    for status in ("wrong", "wrong", "unparsed"):
        world.say(status=status)
    world.say(finish="length")
    with pytest.raises(UserError, match=r"none of 4 traces is kept \(wrong 2, unfinished 1, unparsed 1\)"):
        world.curate()


def test_traces_of_other_problems_are_refused(world: World) -> None:
    world.say()
    world.say("stranger")
    with pytest.raises(UserError, match="has no problem 'stranger', which 1 traces answer"):
        world.curate()


def test_an_exam_without_test_problems_is_refused(world: World) -> None:
    world.say()
    world.exam = []
    with pytest.raises(UserError, match="holds no problem of split 'test'"):
        world.curate()


def test_a_folder_that_is_no_harvest_is_refused(world: World) -> None:
    world.write()
    (world.folder / "harvest" / "verdicts").rename(world.folder / "elsewhere")
    with pytest.raises(UserError, match="verdicts: no such folder"):
        world.curate()


def test_a_harvest_named_twice_counts_once(world: World) -> None:
    world.say()
    world.write()
    out = world.folder / "out"
    out.mkdir()
    config = CurateConfig(traces=("harvest", "harvest"), problems="problems", against="problems", content="off")
    inputs = Inputs([world.folder / "harvest"] * 2, [world.folder / "problems"], [world.folder / "problems"])
    report = curate(inputs, out, config, seed=0, progress=Progress("quiet"))
    assert report.counts == {"traces": 1, "examples": 1}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"against": ()}, "against: expected at least one", id="nothing held out"),
        pytest.param({"traces": ()}, "traces: expected at least one", id="no harvest"),
        pytest.param({"max_tokens": 5}, "either both or neither", id="a limit in unknown tokens"),
        pytest.param({"tokenizer": "student"}, "either both or neither", id="a tokenizer nothing uses"),
        pytest.param({"decontaminate": "8-gram"}, "Input should be", id="a method there is not"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        CurateConfig.model_validate({"traces": "h", "problems": "p", "against": "p", **fields})


def test_traces_too_surprising_for_the_student_are_dropped_and_the_others_say_how_surprising(world: World) -> None:
    easy, hard, unknown = world.say(text="a"), world.say(text="b"), world.say(text="c")
    world.measure("student", **{easy: 0.5, hard: 2.0})
    world.measure("teacher", **{easy: 9.0, hard: 0.0, unknown: 0.0})
    world.curate(measures=("student", "teacher"), max_perplexity=5.0)
    assert (world.kept(), world.dropped()) == ([easy], {hard: "too-surprising", unknown: "unmeasured"})
    told = {fate.trace_id: step for fate in world.fates() for step in fate.steps if step[0] == "likely-enough"}
    assert told[easy][3:5] == (pytest.approx(math.exp(0.5)), 5.0)
    assert told[hard][3:5] == (pytest.approx(math.exp(2.0)), 5.0)


def test_what_the_student_finds_likely_comes_first(world: World) -> None:
    ids = [world.say(text=text) for text in "abc"]
    world.measure("student", **dict(zip(ids, (3.0, 1.0, 2.0), strict=True)))
    world.curate(measures=("student",), order="loss")
    assert world.kept() == [ids[1], ids[2], ids[0]]


def test_a_perplexity_nobody_measured_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_perplexity: needs `measures`"):
        CurateConfig(traces="harvest", problems="problems", against="problems", max_perplexity=5.0)
