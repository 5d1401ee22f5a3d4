"""Near duplicates: edits are seen through, other questions are left alone, and one rule settles chains."""

import gzip
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distill.curate.near import CONTAINED, LONGER, NearConfig, near_duplicates
from distill.curate.normalize import END, is_figure, tokens
from distill.curate.sketch import SAMPLE, sketch
from distill.problems.families import family
from distill.progress import Progress
from tests.audit_near import FALSE_DROPS, RECALL, scored
from tests.near_prompts import corpus

QUIET = Progress("quiet")
STORY = (
    "Tom has 5 apples in a basket. Ann has 3 apples and buys 4 more at the market. "
    "How many apples do they have in all when they meet?"
)
MATHS = r"Let $f(x) = \frac{3x+1}{x-2}$ for all real $x \leq 1$. Find the value of $f(0) \cdot f(-1)$ in lowest terms."


def repeats(*texts: str, groups: list[str] | None = None, workers: int = 1, **config: object) -> list[int]:
    chosen = NearConfig.model_validate(config)
    return near_duplicates(texts, chosen, workers=workers, progress=QUIET, groups=groups).tolist()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(STORY, "\n" + STORY.replace(" ", "\t "), id="white space"),
        pytest.param(STORY, STORY.upper(), id="case"),
        pytest.param(STORY, STORY.replace(".", ";").replace("?", "!"), id="punctuation"),
        pytest.param(STORY, STORY.replace("basket", "bucket"), id="one word changed"),
        pytest.param(STORY, STORY + " Show all of your work.", id="a sentence added"),
        pytest.param(STORY + " Show all of your work.", STORY, id="a sentence removed"),
        pytest.param(STORY, STORY.replace("3", "three"), id="a number in words"),
        pytest.param(
            STORY,
            "Ann has 3 apples and buys 4 more at the market. Tom has 5 apples in a basket. "
            "How many apples do they have in all when they meet?",
            id="sentences exchanged",
        ),
        pytest.param(MATHS, MATHS.replace("\\frac", "\\dfrac").replace("\\leq", "≤").replace("\\cdot", "*"), id="TeX"),
        pytest.param(MATHS, MATHS.replace("$", ""), id="TeX without dollars"),
    ],
)
def test_an_edited_copy_repeats_the_first(first: str, second: str) -> None:
    assert repeats(first, second) == [0, 0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(STORY, STORY.replace("5", "6"), id="a number changed"),
        pytest.param(STORY, STORY.replace("5", "7").replace("3", "5").replace("7", "3"), id="numbers exchanged"),
        pytest.param(STORY, STORY.replace("4 more", "4 fewer"), id="the question turned"),
        pytest.param(MATHS, MATHS.replace("3x+1", "3x-1"), id="a sign changed"),
        pytest.param(MATHS, MATHS.replace("\\leq", "\\geq"), id="a relation turned"),
        pytest.param("Find the gcd of 48 and 36.", "Find the lcm of 48 and 36.", id="short, one word"),
        pytest.param("What is the capital of Peru?", "What is the capital of Chad?", id="short, without figures"),
        pytest.param(
            "In how many ways can the letters of the word RADII be put in a row?",
            "In how many ways can the letters of the word MADAM be put in a row?",
            id="a name in capitals",
        ),
        pytest.param("?", "!", id="nothing but marks"),
    ],
)
def test_another_question_is_left_alone(first: str, second: str) -> None:
    assert repeats(first, second) == [0, 1]


def test_a_chain_ends_at_what_was_kept() -> None:
    """The third repeats the second alone, and the second was dropped: it is kept, and the fourth repeats it."""
    base = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    chain = [" ".join([*base[step:], *(f"more{letter}" for letter in "abcdefgh"[:step])]) for step in (0, 4, 8, 8)]
    assert repeats(*chain) == [0, 0, 2, 2]
    assert repeats(*chain[1:], chain[0]) == [0, 0, 0, 0]


def test_the_earliest_kept_text_is_named_even_for_a_copy_of_a_dropped_one() -> None:
    edited = STORY.replace("basket", "bucket")
    assert repeats("Something else entirely.", STORY, edited, edited.upper()) == [0, 1, 1, 1]


def test_groups_are_kept_apart() -> None:
    assert repeats(STORY, STORY, STORY, groups=["a", "b", "a"]) == [0, 1, 0]
    with pytest.raises(ValueError, match="shorter"):
        repeats(STORY, STORY, groups=["a"])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [("count", [0, 1, 2]), ("words", [0, 0, 2]), ("ignore", [0, 0, 0])],
)
def test_numbers_count_are_words_or_are_ignored(numbers: str, expected: list[int]) -> None:
    """The last one has every number changed: too many words differ unless numbers are ignored."""
    changed = STORY.replace("5", "15").replace("3", "13").replace("4", "14")
    assert repeats(STORY, STORY.replace("5", "6"), changed, numbers=numbers) == expected


def test_texts_without_words_or_out_of_shape_are_compared_whole() -> None:
    assert repeats("", " ", "\ud800", "\ud800 ", "5", "五", "") == [0, 0, 2, 2, 4, 5, 0]
    assert repeats() == []


def test_long_texts_are_compared_by_a_sample_of_their_pairs() -> None:
    dice = np.random.default_rng(0)
    words = [f"w{chr(97 + a)}{chr(97 + b)}" for a, b in dice.integers(0, 26, (6 * SAMPLE, 2)).tolist()]
    other = [f"v{chr(97 + a)}{chr(97 + b)}" for a, b in dice.integers(0, 26, (6 * SAMPLE, 2)).tolist()]
    rarely = [new if place % 30 == 0 else old for place, (old, new) in enumerate(zip(words, other, strict=True))]
    often = [new if place % 6 == 0 else old for place, (old, new) in enumerate(zip(words, other, strict=True))]
    assert repeats(*(" ".join(text) for text in (words, rarely, often))) == [0, 0, 2]


def test_a_text_of_five_megabytes_takes_seconds() -> None:
    assert repeats(STORY, STORY * 40_000, STORY) == [0, 1, 0]


def _alike(one: list[str], other: list[str], threshold: float) -> bool:
    ours, theirs = set(itertools.pairwise(one)), set(itertools.pairwise(other))
    similar = len(ours & theirs) / len(ours | theirs)
    contained = len(ours & theirs) / min(len(ours), len(theirs))
    return similar >= threshold or (contained >= CONTAINED and similar >= threshold * LONGER)


def test_buckets_and_hashes_find_what_comparing_all_pairs_finds() -> None:
    """With numbers as words the rule is the share of pairs alone, here on plain sets of strings."""
    config = NearConfig(numbers="words")
    texts = [prompt.text for prompt in corpus(400, 200, 3)]
    read = [[token for token in tokens(text) if token != END] for text in texts]
    kept: list[int] = []
    expected: list[int] = []
    for number, said in enumerate(read):
        short = sum(not is_figure(token) for token in said) < config.shortest
        same = (other for other in kept if read[other] == said)
        near = (other for other in kept if not short and _alike(read[other], said, config.threshold))
        found = next(same, None) if short else next(near, None)
        expected.append(number if found is None else found)
        if found is None:
            kept.append(number)
    assert near_duplicates(texts, config, workers=1, progress=QUIET).tolist() == expected
    assert 0.2 < 1 - len(kept) / len(texts) < 0.6


def test_processes_and_days_give_the_same_answer() -> None:
    """Two workers agree with none, and a sketch is what it was when this was written."""
    texts = [prompt.text for prompt in corpus(2200, 300, 1)]
    assert repeats(*texts, workers=2) == repeats(*texts)
    sketched = sketch([STORY], [""], "count", 8)
    assert sketched.bands_NB[0, :3].tolist() == [3622954114, 1787685057, 617047848]
    assert sketched.whole_N.tolist() == [14681292255512004618]


def test_planted_copies_are_found_among_twenty_thousand_prompts_and_false_friends_are_not() -> None:
    prompts = corpus(20_000, 2_000, 0)
    answer_N = near_duplicates([prompt.text for prompt in prompts], NearConfig(), workers=1, progress=QUIET)
    score = scored(answer_N, np.array([prompt.question for prompt in prompts]), [prompt.how for prompt in prompts])
    assert score.recall >= RECALL
    assert score.false_drops <= FALSE_DROPS
    assert min(score.found[edit] / score.planted[edit] for edit in score.planted) >= 0.97
    friends = Counter({how: count for how, count in score.dropped.items() if how.startswith("not")})
    assert friends.total() <= 2


@pytest.mark.parametrize("name", ["stories", "functions", "expressions"])
def test_procedural_prompts_share_phrases_and_are_kept(name: str) -> None:
    made, dice = family(name), random.Random(0)
    prompts = dict.fromkeys(made.generate(dice, level).prompt for level in (3, 4, 5) for _ in range(500))
    kept = set(repeats(*prompts))
    assert len(kept) >= 0.998 * len(prompts)


@pytest.mark.data
def test_real_benchmarks_hold_few_near_duplicates_and_they_are_where_they_were(data_dir: Path) -> None:
    """All 33 were read: 22 ask the same question, 11 put another one to the same setting (docs/curate.md)."""
    files = ("math_train.jsonl.gz", "math_test.jsonl.gz", "gsm8k_train.jsonl.gz", "gsm8k_test.jsonl")
    names: list[str] = []
    texts: list[str] = []
    for file in files:
        raw = (data_dir / file).read_bytes()
        for line in (gzip.decompress(raw) if file.endswith("gz") else raw).splitlines():
            row = json.loads(line)
            names.append(file.partition(".")[0])
            texts.append(row.get("problem") or row["question"])
    answer = near_duplicates(texts, NearConfig(), workers=1, progress=QUIET).tolist()
    found = Counter((names[first], names[number]) for number, first in enumerate(answer) if first != number)
    assert found == {
        ("math_train", "math_train"): 14,
        ("math_train", "math_test"): 14,
        ("math_test", "math_test"): 4,
        ("gsm8k_train", "gsm8k_train"): 1,
    }
