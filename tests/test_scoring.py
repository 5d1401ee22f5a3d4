import pytest

from distill.errors import UserError
from distill.records import Item, Status
from evals.scoring import aligned, bad_gold, drops, group, pair, score, table, task_order
from evals.voting import maj_at_k


def item(problem: str, status: Status = "correct", *, sample: int = 0, **more: object) -> Item:
    row = {"checkpoint": "teacher", "trace_id": f"{problem}/{sample}", "task": "stories", "level": 1, "tokens": 10}
    return Item.model_validate(row | {"problem_id": problem, "sample_index": sample, "status": status} | more)


def test_an_item_counts_for_its_family_its_level_and_all() -> None:
    rows = [item("a"), item("b", level=2), item("c", task="functions", level=10), item("d", task="gsm8k", level=None)]
    counted = {task: sorted(problems) for task, problems in group(rows).items()}
    assert counted == {
        "all": ["a", "b", "c", "d"],
        "functions": ["c"],
        "gsm8k": ["d"],
        "stories": ["a", "b"],
        "functions/level-10": ["c"],
        "stories/level-1": ["a"],
        "stories/level-2": ["b"],
        "level-1": ["a"],
        "level-2": ["b"],
        "level-10": ["c"],
    }


def test_levels_are_ordered_as_numbers() -> None:
    tasks = ["level-10", "level-9", "all", "stories/level-10", "stories/level-9", "stories"]
    assert sorted(tasks, key=task_order) == [
        "all",
        "stories",
        "stories/level-9",
        "stories/level-10",
        "level-9",
        "level-10",
    ]


@pytest.mark.parametrize("status", ["wrong", "unparsed", "truncated", "timeout", "undecided"])
def test_every_status_but_correct_is_not_solved(status: Status) -> None:
    found = score(group([item("a"), item("b", status)]), "teacher", "f", "greedy", [1])[0]
    assert (found.value, found.n) == (0.5, 2)


def test_truncated_and_unparsed_are_shown_apart() -> None:
    rows = [item("a", "truncated", tokens=40), item("b", "unparsed"), item("c", "wrong"), item("d", "timeout")]
    found = score(group(rows), "teacher", "f", "greedy", [1])[0]
    assert (found.truncated, found.no_answer, found.tokens_per_answer) == (0.25, 0.25, 17.5)


def test_a_broken_reference_answer_measures_nothing() -> None:
    rows = [item("a"), item("b", "gold_bad"), item("b", "wrong", sample=1)]
    assert bad_gold(rows) == {"b"}


def test_pass_at_k_is_averaged_over_problems_not_samples() -> None:
    rows = [item("a", "correct" if i == 0 else "wrong", sample=i) for i in range(4)]
    rows += [item("b", "correct", sample=i) for i in range(2)]
    values = {row.metric: row.value for row in score(group(rows), "t", "f", "p", [1, 2]) if row.task == "all"}
    assert values == {"pass@1": pytest.approx((1 / 4 + 1) / 2), "pass@2": pytest.approx((1 / 2 + 1) / 2)}


def test_pass_at_k_is_refused_when_one_problem_has_fewer_samples() -> None:
    rows = [item("a", sample=0), item("a", sample=1), item("b")]
    with pytest.raises(UserError, match=r"pass@2 needs 2 samples .* fewer for 1 of 2 problems \(fewest 1\)"):
        score(group(rows), "teacher", "f", "p", [2])


def test_paired_problems_are_matched_by_id_whatever_their_order() -> None:
    ours = group([item("a"), item("b"), item("c", "wrong")])
    theirs = group([item("c", "wrong"), item("b", "wrong"), item("a")])
    found = pair("x", "y", {"x": ours, "y": theirs})[0]
    assert (found.task, found.n, found.difference, found.p_mcnemar) == ("all", 3, pytest.approx(1 / 3), 1.0)


def test_only_shared_problems_are_paired_and_none_is_an_error() -> None:
    grouped = {"x": group([item("a"), item("b")]), "y": group([item("b", "wrong"), item("c")]), "z": group([item("q")])}
    found = pair("x", "y", grouped)[0]
    assert (found.n, found.difference) == (1, 1.0)
    with pytest.raises(UserError, match="x and z have no problem in common"):
        pair("x", "z", grouped)


def test_mcnemar_is_left_out_when_a_problem_has_several_samples() -> None:
    once, twice = group([item("a")]), group([item("a"), item("a", "wrong", sample=1)])
    found = pair("x", "y", {"x": once, "y": twice})[0]
    assert (found.difference, found.p_mcnemar) == (0.5, None)


def test_the_table_says_value_interval_n_and_the_weakest_level() -> None:
    teacher = group([item("a"), item("b", level=2), item("c", level=2)])
    student = group([item("a"), item("b", "wrong", level=2), item("c", level=2)])
    scores = score(teacher, "teacher", "f", "p", [1]) + score(student, "student", "f", "p", [1])
    lines = table(scores, pair("student", "teacher", {"teacher": teacher, "student": student}))
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "student stories pass@1 66.7% 20.8% to 93.9% 3 0.0% 0.0% 10.0" in text
    assert "teacher all pass@1" not in text  # with one family it would say the same twice
    assert "student 100.0% 50.0%" in text
    assert "student - teacher all -33.3" in text
    assert "student - teacher level-2 (lowest) -50.0" in text


def test_a_pair_counts_who_won_which_problems_and_what_it_could_have_shown() -> None:
    ours = group([item("a"), item("b"), item("c", "wrong")] + [item(f"n{i}") for i in range(97)])
    theirs = group([item("a", "wrong"), item("b", "wrong"), item("c")] + [item(f"n{i}") for i in range(97)])
    found = pair("x", "y", {"x": ours, "y": theirs})[0]
    assert (found.better, found.worse, found.n) == (2, 1, 100)
    assert found.detects == pytest.approx(0.0597, abs=0.0001)  # 2.80 sqrt((5 / 102) / (100 + 2.80^2))


def votes(*said: str | None, gold: str = "4") -> list[Item]:
    """Samples of one problem; None is a sample without an answer."""
    return [
        item("p", "unparsed" if answer is None else "correct" if answer == gold else "wrong", sample=i, answer=answer)
        for i, answer in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("samples", "k", "value"),
    [
        pytest.param(votes("4", "5", "4"), 3, 1.0, id="most say it"),
        pytest.param(votes("4", "5", "6"), 3, 1.0, id="of a tie the first to speak wins"),
        pytest.param(votes("5", "4", "6"), 3, 0.0, id="and the right one not where it spoke later"),
        pytest.param(votes("1/2", "0.5", "4"), 3, 0.0, id="two wordings of one wrong answer are one party"),
        pytest.param(votes(None, None, "4"), 3, 1.0, id="who says nothing has no vote"),
        pytest.param(votes(None, None, None), 3, 0.0, id="nobody voted"),
        pytest.param(votes("4", "4", "5", "5", "4"), 2, 0.5, id="blocks of two, the fifth left over"),
    ],
)
def test_a_majority_is_counted_by_answers_that_are_the_same(samples: list[Item], k: int, value: float) -> None:
    assert maj_at_k(samples, k) == value


def test_correct_answers_are_one_party_whatever_their_words() -> None:
    samples = [item("p", "correct", sample=0, answer="0.5"), item("p", "wrong", sample=1, answer="7")]
    samples += [item("p", "wrong", sample=2, answer="7"), item("p", "correct", sample=3, answer="\\frac{1}{2}")]
    samples += [item("p", "correct", sample=4, answer="one half")]
    assert maj_at_k(samples, 5) == 1.0


def test_majorities_are_scored_where_there_are_answers_and_refused_where_there_are_none() -> None:
    answers = [item("a", sample=i, answer="4") for i in range(3)]
    programs = [item("c", sample=i, task="functions") for i in range(3)]
    scores = score(group(answers + programs), "t", "f", "p", [1], maj=[3])
    assert [row.task for row in scores if row.metric == "maj@3"] == ["stories", "stories/level-1"]
    with pytest.raises(UserError, match="programs have no vote"):
        score(group(programs), "t", "f", "p", [1], maj=[3])
    with pytest.raises(UserError, match=r"maj: maj@4 needs 4 samples .* fewer for 1 of 1"):
        score(group(answers), "t", "f", "p", [1], maj=[4])


def test_a_variant_is_paired_with_the_problem_it_was_made_from() -> None:
    rows = [item(f"p{i}") for i in range(4)]
    rows += [item("p0~numbers", "wrong", task="stories-numbers"), item("p1~numbers", task="stories-numbers")]
    rows += [item("gone~numbers", "wrong", task="stories-numbers"), item("p2~paraphrase", task="stories-paraphrase")]
    found = {row.task: row for row in drops("student", group(rows))}
    assert found.keys() == {
        "stories-numbers",
        "stories-numbers/level-1",
        "stories-paraphrase",
        "stories-paraphrase/level-1",
    }
    numbers = found["stories-numbers"]
    assert (numbers.original, numbers.value, numbers.difference, numbers.n) == (1.0, 0.5, -0.5, 2)
    assert numbers.low < -0.5 < numbers.high
    assert not drops("student", group([item("p0"), item("p1")]))


def test_aligned_columns_end_at_the_same_place() -> None:
    assert aligned([("name", "n"), ("a", "1,000")]) == ["name      n", "a     1,000"]
