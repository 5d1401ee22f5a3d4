"""Procedural families: right chains are right, mistakes are wrong, and the exam is never trained on."""

import itertools
import random

import pytest

from distill.errors import UserError
from distill.problems.expressions import work
from distill.problems.families import FAMILIES, WIDEST, family
from distill.problems.family import LIMIT, split_of
from distill.problems.functions import INPUTS

LEVELS = (1, 2, 3, 4, 6, 9)


def problems(name, level, count=40, seed=0, world=None):
    kind, rng = family(name, world), random.Random(seed)
    return [kind.generate(rng, level) for _ in range(count)]


def run(problem, answer):
    """The outcome of a program on the hidden inputs, by this interpreter alone."""
    space = {}
    exec(problem.tests.prefix + answer, space)
    return [space[problem.tests.entry_point](value) for value in INPUTS]


def passes(problem, answer):
    space = {}
    exec(problem.tests.prefix + answer + "\n" + problem.tests.check, space)
    try:
        space["check"](space[problem.tests.entry_point])
    except AssertionError:
        return False
    return True


def numbers(text):
    return [int(word) for word in text.split() if word.isdigit()]


@pytest.mark.parametrize("world", [None, "widest"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_storys_lines_are_true_and_chain_into_each_other(level, world):
    for problem in problems("stories", level, world=world and WIDEST["stories"]):
        lines = [line.strip() for line in problem.solution.split(";") if line.strip()]
        assert len(lines) == level
        value = numbers(problem.prompt)[0]
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right)
            assert int(left.split()[0]) == value
            value = int(right)
        assert problem.answer == str(value)


def test_a_storys_operands_stand_in_its_sentences_in_order():
    for problem in problems("stories", 5, world={"operations": ["add", "subtract"]}):
        operands = [int(line.split()[2]) for line in problem.solution.split(" ;") if line.strip()]
        assert numbers(problem.prompt)[1:] == operands


@pytest.mark.parametrize("world", [None, "widest"])
@pytest.mark.parametrize("level", LEVELS)
def test_an_expressions_lines_are_true_and_end_in_its_value(level, world):
    for problem in problems("expressions", level, world=world and WIDEST["expressions"]):
        expression = " ".join(word for word in problem.prompt.split() if word.isdigit() or word in "+-*")
        lines = [line.strip() for line in problem.solution.split(";") if line.strip()]
        assert len(lines) == level
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right)
        assert eval(expression) == int(problem.answer) == numbers(lines[-1])[-1]


def test_an_expression_is_taken_from_the_left_when_nothing_binds_stronger():
    for problem in problems("expressions", 5):
        lines = [line.split() for line in problem.solution.split(" ;") if line.strip()]
        assert [int(line[2]) for line in lines] == numbers(problem.prompt)[1:]
        assert all(before[4] == after[0] for before, after in itertools.pairwise(lines))


@pytest.mark.parametrize(
    ("expression", "thought"),
    [
        ("4 + 2 * 3", "2 * 3 = 6 ; 4 + 6 = 10 ;"),
        ("2 * 3 - 4", "2 * 3 = 6 ; 6 - 4 = 2 ;"),
        ("9 - 2 * 2 * 2 + 1", "2 * 2 = 4 ; 4 * 2 = 8 ; 9 - 8 = 1 ; 1 + 1 = 2 ;"),
    ],
)
def test_products_come_first(expression, thought):
    assert work(expression.split())[0].reasoning == thought


@pytest.mark.parametrize("world", [None, "widest"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_function_passes_its_own_tests_and_ends_in_its_last_thought(level, world):
    for problem in problems("functions", level, world=world and WIDEST["functions"]):
        assert passes(problem, problem.answer)
        lines = [line.strip() for line in problem.solution.split(";") if line.strip()]
        assert len(lines) == level
        assert problem.answer == f"return {lines[-1].partition(' : ')[2]}"
        assert [line.partition(" : ")[0] for line in lines] == problem.prompt[:-2].rpartition(" : ")[2].split(" , ")


def test_a_functions_operands_are_the_prompts_in_order():
    for problem in problems("functions", 4, world={"operations": ["add", "subtract", "multiply"]}):
        assert numbers(problem.prompt) == numbers(problem.answer)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("level", LEVELS)
def test_numbers_stay_within_the_vocabulary_in_problems_and_in_mistakes(name, level):
    kind, rng = family(name, WIDEST[name]), random.Random(3)
    for problem in problems(name, level, world=WIDEST[name]):
        wrong = kind.mistake(problem, rng)
        for text in (problem.prompt, problem.solution, wrong.reasoning, wrong.answer):
            assert all(0 <= number <= LIMIT for number in numbers(text))


@pytest.mark.parametrize("world", ["default", "widest"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_mistake_is_always_wrong_and_ends_in_the_answer_it_thought(name, level, world):
    knobs = WIDEST[name] if world == "widest" else None
    kind, rng = family(name, knobs), random.Random(4)
    for problem in problems(name, level, world=knobs):
        wrong = kind.mistake(problem, rng)
        if problem.tests:
            assert run(problem, wrong.answer) != run(problem, problem.answer)
            assert wrong.answer == f"return {wrong.reasoning.removesuffix(' ;').rpartition(' : ')[2]}"
        else:
            assert numbers(wrong.answer) == [numbers(wrong.reasoning)[-1]] != numbers(problem.answer)
        assert wrong.reasoning != problem.solution


@pytest.mark.parametrize("name", FAMILIES)
def test_mistakes_are_of_several_kinds(name):
    kind, problem = family(name), problems(name, 3, count=1)[0]
    chains = [kind.mistake(problem, random.Random(seed)) for seed in range(200)]
    assert len({chain.reasoning.count("=" if name != "functions" else ";") for chain in chains}) > 1
    assert len(set(chains)) > 8


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_generator_state_gives_the_same_problem(name):
    assert problems(name, 3, seed=5) == problems(name, 3, seed=5)
    assert problems(name, 3, seed=5) != problems(name, 3, seed=6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_split_is_the_prompts_alone_and_takes_a_tenth(name):
    rows = problems(name, 3, count=2000)
    assert all(row.split == split_of(row.prompt) for row in rows)
    share = sum(row.split == "test" for row in rows) / len(rows)
    assert 0.07 < share < 0.13


def test_the_split_of_known_prompts_never_moves():
    """A changed hash would put old exam questions into new training sets."""
    assert [k for k in range(12) if split_of(f"Compute 7 + {k} .") == "test"] == [1, 4, 8]


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_differ_exactly_when_prompts_do(name):
    rows = problems(name, 1, count=3000)
    assert len({row.id for row in rows}) == len({row.prompt for row in rows})


@pytest.mark.parametrize(
    ("name", "world", "told"),
    [
        ("story", {}, "did you mean stories"),
        ("stories", {"name": 3}, "did you mean names"),
        ("stories", {"names": 99}, "world.names"),
        ("expressions", {"operations": ["/"]}, "world.operations"),
        ("functions", {"operations": []}, "world.operations"),
    ],
)
def test_a_bad_family_or_knob_is_named(name, world, told):
    with pytest.raises(UserError, match=told):
        family(name, world)


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("stories", {"operations": ["double"]}),
        ("expressions", {"operations": ["*"]}),
    ],
)
def test_a_world_without_a_way_on_says_so_instead_of_hanging(name, world):
    with pytest.raises(UserError, match="nothing leads on"):
        problems(name, 9, count=50, world=world)
