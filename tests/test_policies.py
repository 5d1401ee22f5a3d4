"""Policies take what their table says, say why not of the rest, and never see the order of the rows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from distill.curate.policies import Choice, Given, Policies, choose
from distill.curate.row import Row
from distill.errors import UserError
from distill.judge.votes import same_answer, voiced
from distill.simhash import distance, sketch

POLICIES = TypeAdapter(Policies)


def row(trace_id: str, problem: int = 0, **fields: Any) -> Row:
    defaults: dict[str, Any] = {
        "ledger": 0,
        "shard": 0,
        "offset": 0,
        "source": "stories",
        "origin": "oracle 1",
        "split": "train",
        "level": 1,
        "subject": None,
        "kind": "answer",
        "round": 0,
        "sample_index": 0,
        "finish": "stop",
        "status": "correct",
        "extracted": "7",
        "isolation": None,
        "characters": 40,
        "completion_tokens": 10,
        "tokens": None,
        "digest": 0,
        "sketch": sketch(trace_id),
    }
    return Row(trace_id=trace_id, problem=problem, **{**defaults, **fields})


def pick(
    rows: Sequence[Row], *policies: Any, seed: int = 0, drawn: Sequence[Row] | None = None, **fields: Any
) -> Choice:
    return choose(rows, POLICIES.validate_python(policies), Given(seed, rows if drawn is None else drawn, **fields))


def taken(rows: Sequence[Row], choice: Choice) -> set[str]:
    return {rows[index].trace_id for index in choice.taken}


def reasons(rows: Sequence[Row], choice: Choice) -> dict[str, str]:
    return {rows[index].trace_id: said.reason for index, (_, said) in choice.refused.items()}


statuses = st.sampled_from(["correct", "correct", "wrong", "unparsed", "truncated", "gold_bad", "unjudged"])


@st.composite
def harvests(draw: st.DrawFn) -> list[Row]:
    """Up to 30 rows over 6 problems; a problem's kind, source and level are its own."""
    rows = []
    for number in range(draw(st.integers(1, 30))):
        problem = draw(st.integers(0, 5))
        rows.append(
            row(
                f"t{number}",
                problem,
                status=draw(statuses),
                kind="open" if problem == 5 else "answer",
                source=f"s{problem % 2}",
                level=problem % 3,
                extracted=draw(st.sampled_from(["7", "7.0", "8", "1/2", "0.5", None])),
                completion_tokens=draw(st.integers(1, 9)),
                sketch=draw(st.integers(1, 2**64 - 1)),
                attempts=draw(st.integers(0, 4)),
            )
        )
    return rows


CHAINS: list[list[Any]] = [
    ["all"],
    ["verified"],
    ["shortest"],
    [{"policy": "shortest", "k": 2, "open": "keep"}],
    ["diverse"],
    [{"policy": "diverse", "k": 3, "min_distance": 0.4}],
    ["majority", "verified"],
    [{"policy": "pass-rate", "samples": 1, "low": 0.2, "high": 0.8}],
    [{"policy": "balanced", "by": ["source", "level"]}],
    [{"policy": "balanced", "by": ["length"], "total": 7}],
    ["verified", {"policy": "scored", "at_least": 0.5}],
    [{"policy": "divergence", "student": "s", "teacher": "t"}],
    [{"policy": "verified", "open": "keep"}, {"policy": "balanced", "by": ["origin"], "quota": 3}],
]
BESIDE: dict[str, Any] = {
    "scores": {"t1": 0.9, "t2": 0.1, "t3": 0.6},
    "divergences": {("s", "t"): {f"t{number}": number % 3 / 3 for number in range(20)}},
}


@settings(max_examples=40, deadline=None)
@given(rows=harvests(), chain=st.sampled_from(CHAINS), seed=st.integers(0, 3), data=st.data())
def test_what_is_taken_does_not_depend_on_the_order_of_rows(
    rows: list[Row], chain: list[Any], seed: int, data: st.DataObject
) -> None:
    choice = pick(rows, *chain, seed=seed, **BESIDE)
    shuffled = data.draw(st.permutations(rows))
    again = pick(shuffled, *chain, seed=seed, **BESIDE)
    assert taken(rows, choice) == taken(shuffled, again)
    assert choice.relabeled == again.relabeled
    said = {rows[index].trace_id: refusal for index, refusal in choice.refused.items()}
    assert said == {shuffled[index].trace_id: refusal for index, refusal in again.refused.items()}


@settings(max_examples=40, deadline=None)
@given(rows=harvests(), chain=st.sampled_from(CHAINS))
def test_every_row_is_taken_or_refused_once_and_steps_count_them(rows: list[Row], chain: list[Any]) -> None:
    choice = pick(rows, *chain, **BESIDE)
    assert sorted([*choice.taken, *choice.refused]) == list(range(len(rows)))
    assert choice.steps[0].before == len(rows)
    assert choice.steps[-1].after == len(choice.taken)
    assert Counter(said.reason for _, said in choice.refused.values()) == sum(
        (step.reasons for step in choice.steps), Counter()
    )


@settings(max_examples=40, deadline=None)
@given(rows=harvests(), k=st.integers(1, 3))
def test_shortest_takes_no_longer_trace_where_a_shorter_correct_one_stays_behind(rows: list[Row], k: int) -> None:
    choice = pick(rows, {"policy": "shortest", "k": k})
    for problem in {row.problem for row in rows}:
        correct = sorted(r.completion_tokens for r in rows if r.problem == problem and r.status == "correct")
        got = sorted(rows[i].completion_tokens for i in choice.taken if rows[i].problem == problem)
        assert got == correct[:k]


@settings(max_examples=40, deadline=None)
@given(rows=harvests(), total=st.integers(1, 40))
def test_balanced_total_is_met_and_no_group_lags_that_had_more_to_give(rows: list[Row], total: int) -> None:
    choice = pick(rows, {"policy": "balanced", "by": ["level"], "total": total})
    sizes, got = Counter(row.level for row in rows), Counter(rows[index].level for index in choice.taken)
    assert len(choice.taken) == min(total, len(rows))
    for level in sizes:
        assert got[level] == sizes[level] or got[level] >= max(got.values()) - 1


@settings(max_examples=40, deadline=None)
@given(short=st.integers(1, 40), long=st.integers(1, 40), share=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]))
def test_a_mix_has_its_share_and_could_not_be_larger(short: int, long: int, share: float) -> None:
    rows = [row(f"s{n}", completion_tokens=5) for n in range(short)]
    rows += [row(f"l{n}", completion_tokens=50) for n in range(long)]
    choice = pick(rows, {"policy": "mix-length", "short_tokens": 5, "short_share": share})
    got = sum(rows[index].completion_tokens == 5 for index in choice.taken)
    others = len(choice.taken) - got
    assert got == short or others == long
    assert abs(got - share * (got + others)) <= 1


def test_verified_names_each_verdict_and_a_forgeable_one() -> None:
    rows = [row("a"), row("b", status="wrong"), row("c", status="unjudged"), row("d", isolation="in-process")]
    choice = pick(rows, "verified")
    assert reasons(rows, choice) == {"b": "wrong", "c": "unjudged", "d": "not-isolated"}
    assert taken(rows, pick(rows, "verified", in_process=True)) == {"a", "d"}


def test_open_problems_pass_by_only_when_told() -> None:
    rows = [row("a", kind="open", status="undecided"), row("b", kind="open", status="undecided"), row("c", problem=1)]
    assert taken(rows, pick(rows, "shortest")) == {"c"}
    assert taken(rows, pick(rows, {"policy": "shortest", "open": "keep"})) == {"a", "b", "c"}


def test_diverse_prefers_the_stranger_to_the_near_copy() -> None:
    base = 2**64 - 1
    rows = [row("a", sketch=base), row("b", sketch=base ^ 1), row("c", sketch=base >> 32)]
    for seed in range(8):
        got = taken(rows, pick(rows, "diverse", seed=seed))
        assert "c" in got
        assert len(got) == 2


def test_diverse_does_not_fill_up_with_copies() -> None:
    rows = [row(name, sketch=5) for name in "abc"]
    choice = pick(rows, {"policy": "diverse", "k": 2, "min_distance": 0.05})
    assert len(choice.taken) == 1
    assert set(reasons(rows, choice).values()) == {"too-alike"}


def test_majority_relabels_where_no_sample_matches_gold_and_says_by_what_margin() -> None:
    rows = [row("a", status="wrong", extracted="0.5"), row("b", status="wrong", extracted="1/2")]
    rows += [row("c", status="wrong", extracted="3"), row("d", status="truncated", extracted=None)]
    choice = pick(rows, "majority", "verified")
    assert taken(rows, choice) == {"a", "b"}
    (vote,) = choice.relabeled.values()
    assert (vote.votes, vote.runner_up, vote.voters) == (2, 1, 3)
    assert vote.margin == pytest.approx(1 / 3)
    assert choice.lines == ("majority label for 1 problems; margin 0.33 to 0.33, median 0.33",)


def test_majority_leaves_a_problem_alone_of_which_one_sample_is_correct() -> None:
    drawn = [*(row(f"w{n}", status="wrong", extracted="3") for n in range(5)), row("right")]
    left = drawn[:5]  # the correct one fell to an earlier filter
    assert not pick(left, "majority", "verified", drawn=drawn).taken


def test_duplicates_dropped_before_still_vote() -> None:
    drawn = [row(f"w{n}", status="wrong", extracted="3") for n in range(3)]
    drawn += [row(f"v{n}", status="wrong", extracted="4") for n in range(2)]
    left = [drawn[0], drawn[3], drawn[4]]
    assert taken(left, pick(left, "majority", "verified", drawn=drawn)) == {"w0"}


@pytest.mark.parametrize(
    ("answers", "table"),
    [
        pytest.param(["3", "4"], {"min_votes": 1, "min_share": 0.1}, id="a tie"),
        pytest.param(["3"], {}, id="one vote"),
        pytest.param(["3", "3", "4", "5", "6"], {}, id="under half"),
        pytest.param(["3", "3", "3", "4", "4"], {"min_margin": 0.3}, id="a narrow lead"),
    ],
)
def test_no_majority_no_label(answers: list[str], table: dict[str, Any]) -> None:
    rows = [row(f"t{n}", status="wrong", extracted=said) for n, said in enumerate(answers)]
    assert not pick(rows, {"policy": "majority", **table}).relabeled


def test_answers_are_the_same_by_value_not_by_letters() -> None:
    assert same_answer("0.5", r"\frac{1}{2}")
    assert not same_answer("0.33", "1/3")


def test_a_trace_without_gold_votes_by_what_it_boxes() -> None:
    assert voiced("open", r"So \boxed{12}.") == "12"
    assert voiced("open", "I like tea.") is None
    assert voiced("answer", "The answer is 12.") == "12"
    assert voiced("answer", None) is None


def test_pass_rate_counts_samples_that_filters_dropped() -> None:
    rows = [row("easy", 0, attempts=4, correct=4), row("mid", 1, attempts=4, correct=2)]
    rows += [row("hard", 2, attempts=4, correct=0), row("few", 3, attempts=3, correct=2)]
    choice = pick(rows, {"policy": "pass-rate", "low": 0.25, "high": 0.75, "samples": 4})
    assert taken(rows, choice) == {"mid"}
    assert reasons(rows, choice) == {"easy": "too-easy", "hard": "too-hard", "few": "few-samples"}


def test_under_a_majority_label_the_pass_rate_is_that_of_its_votes() -> None:
    rows = [row(f"t{n}", status="wrong", extracted=said, attempts=4) for n, said in enumerate("3334")]
    band = {"policy": "pass-rate", "samples": 4}
    assert len(pick(rows, "majority", {**band, "low": 0.75, "high": 0.75}).taken) == 3
    assert not pick(rows, "majority", {**band, "low": 0.8}).taken


def test_balanced_takes_every_problem_once_before_any_twice() -> None:
    rows = [row(f"p{problem}-{n}", problem) for problem in range(4) for n in range(5)]
    choice = pick(rows, {"policy": "balanced", "by": ["source"], "quota": 4})
    assert Counter(rows[index].problem for index in choice.taken) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_general_data_makes_up_a_quarter() -> None:
    rows = [row(f"r{n}") for n in range(60)] + [row(f"g{n}", 1, kind="open") for n in range(50)]
    choice = pick(rows, {"policy": "verified", "open": "keep"}, "mix-general")
    assert Counter(rows[index].kind for index in choice.taken) == {"answer": 60, "open": 20}


def test_divergence_takes_the_highest_of_each_problem_above_its_threshold() -> None:
    rows = [row(name) for name in ("known", "learnable", "unlikely", "unseen")] + [row("other", 1)]
    found = {("s", "t"): {"known": 0.1, "learnable": 0.6, "unlikely": -0.3, "other": 0.05}}
    table = {"policy": "divergence", "student": "s", "teacher": "t", "at_least": 0.0}
    choice = pick(rows, table, divergences=found)
    assert taken(rows, choice) == {"learnable", "other"}
    expected = {"known": "less-divergent", "unlikely": "low-divergence", "unseen": "not-measured"}
    assert reasons(rows, choice) == expected


def test_a_score_counts_on_top_of_a_verdict() -> None:
    rows = [row("good"), row("bad"), row("wrong", status="wrong"), row("unscored")]
    scores = {"good": 0.9, "bad": 0.2, "wrong": 1.0}
    choice = pick(rows, "verified", {"policy": "scored", "at_least": 0.5}, scores=scores)
    assert reasons(rows, choice) == {"bad": "low-score", "wrong": "wrong", "unscored": "no-score"}


def test_samples_of_two_sizes_are_not_nested_and_two_seeds_differ() -> None:
    rows = [row(f"t{n}") for n in range(400)]
    small, large = (taken(rows, pick(rows, {"policy": "sample", "size": size})) for size in (100, 200))
    assert 30 <= len(small & large) <= 70  # 50 expected of independent draws; nested ones would share 100
    assert small != taken(rows, pick(rows, {"policy": "sample", "size": 100}, seed=1))


def test_a_sample_larger_than_what_is_left_is_refused() -> None:
    with pytest.raises(UserError, match="at most 1, which are left to draw from, got 2"):
        pick([row("a"), row("b", status="wrong")], "verified", {"policy": "sample", "size": 2})


@pytest.mark.parametrize(
    ("policies", "complaint"),
    [
        pytest.param([], "at least one policy", id="none"),
        pytest.param([{"policy": "scored", "at_least": 0.5}], "never the only one", id="a score alone"),
        pytest.param(["all", "shortest"], "only 'sample'", id="all and something"),
        pytest.param(["verified", "majority"], "put it first", id="majority after what it relabels for"),
        pytest.param([{"policy": "sample", "size": 3}, "verified"], "put it last", id="sample before the end"),
        pytest.param(["shortst"], "'shortest'", id="no such policy"),
        pytest.param([{"policy": "pass-rate", "low": 0.9, "high": 0.1, "samples": 4}], "low <= high", id="empty band"),
        pytest.param([{"policy": "pass-rate", "low": 0.1}], "samples", id="band without samples"),
        pytest.param([{"policy": "balanced", "by": ["level"], "quota": 1, "total": 1}], "at most one", id="two quotas"),
        pytest.param([{"policy": "balanced", "by": ["level", "level"]}], "twice", id="a trait twice"),
    ],
)
def test_policies_that_make_no_sense_are_refused(policies: list[Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        POLICIES.validate_python(policies)


def test_sketches_are_near_for_like_texts_and_far_for_others() -> None:
    words = [f"w{n}" for n in range(60)]
    text = " ".join(words)
    assert distance(sketch(text), sketch(" ".join([*words[:55], *"vwxyz"]))) < 0.25
    assert distance(sketch(text), sketch(" ".join(f"v{n}" for n in range(60)))) > 0.3
    assert sketch("7 + 5 = 12") != sketch("5 + 7 = 12")
    assert sketch("7 + 5") != sketch("7 - 5")
    assert sketch("") == 0
