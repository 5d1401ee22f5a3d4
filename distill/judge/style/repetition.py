"""Repetition: degenerate loops, sentences said again, n-grams said again.

A model that cannot stop ends in the same period over and over (Holtzman et al. 2020, section 3); one that goes in
circles says whole sentences and long n-grams again (the measures of Gopher's repetition filter, arXiv 2112.11446, table
A1). Thought and answer are looked at apart, for a summary may repeat its thought; the worst finding is the score.
Linear time. What is not covered: loops that change more than a number each round, unless their n-grams repeat; a period
of more than 10,000 characters; a loop in the middle that is no single sentence, until it is a third of the text.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from distill.judge.style.score import Style, quoted

ROUNDS = 3
"""Rounds from which on a period is a loop."""
COUNTED_ROUNDS = 10
"""The same where only numbers differ ("Step 8: go on. Step 9: go on."): a story may list three days."""
LOOP, LOOP_WORDS = 80, 20
"""Characters and words a loop spans at least, so that a short answer said three times is none."""
TAIL = 30_000
"""Characters or words of the end in which the period is looked for."""
NGRAM = 13
"""Words of an n-gram, as in decontamination."""
NGRAMS_FREE, NGRAMS_WORST = 0.3, 0.9
"""Share of words in n-grams that were said before: score 1 up to the first, 0 from the second on. 99 of 100 real
completions lie under 0.27 (docs/judge.md)."""
SENTENCE = 20
"""Shortest sentence or line that counts, in characters."""
SENTENCES_FREE, SENTENCES_WORST = 0.15, 0.75
"""Share of characters in sentences that were said before: the same. 99 of 100 real completions lie under 0.10."""

WORDS = re.compile(r"[\u3041-\u30ff\u3400-\u9fff]|[^\W_\u3041-\u30ff\u3400-\u9fff]++")
SENTENCES = re.compile(r"[^\n.!?。！？]++[\n.!?。！？]*+")


@dataclass(frozen=True, slots=True)
class Loop:
    """A text's end that is one period over and over."""

    rounds: int
    start: int
    """Where the first round starts."""
    period: int


def repetition(thought: str, answer: str) -> Style:
    """The worse of a completion's two parts."""
    return min((_part(part) for part in (thought, answer)), key=lambda style: style.score)


def _part(text: str) -> Style:
    text = text.strip().casefold()
    sentences = [sentence.strip() for sentence in SENTENCES.findall(text)]
    said = WORDS.findall(text)
    again, sentence = _said_again(sentences, len(text))
    share = ngrams_again(said)
    rounds, period = _loop(text, said, sentences)
    findings = [
        ((ROUNDS - 1) / max(rounds, 1), f"a loop of {rounds} rounds: {quoted(period)}"),
        (_fall(again, SENTENCES_FREE, SENTENCES_WORST), f"{again:.0%} in sentences said before: {sentence}"),
        (_fall(share, NGRAMS_FREE, NGRAMS_WORST), f"{share:.0%} of words in {NGRAM}-grams said before"),
    ]
    counts = {"rounds": rounds, "sentences_percent": round(100 * again), "ngrams_percent": round(100 * share)}
    reasons = [reason for score, reason in findings if score < 1]
    return Style(min(1.0, *(score for score, _ in findings)), ", ".join(reasons), counts)


def _fall(share: float, free: float, worst: float) -> float:
    return min(1.0, max(0.0, (worst - share) / (worst - free)))


def _loop(text: str, said: Sequence[str], sentences: Sequence[str]) -> tuple[int, str]:
    """Rounds and period of the first kind of loop that is there; 0 rounds when none is."""
    loop = ending_loop(text, ROUNDS, LOOP)
    if loop:
        return loop.rounds, text[loop.start : loop.start + loop.period]
    counted = ["0" if word.isdecimal() else word for word in said]
    loop = ending_loop(counted, COUNTED_ROUNDS, LOOP_WORDS)
    if loop:
        period = " ".join(said[loop.start : loop.start + loop.period])
        if any(map(str.isalpha, period)):  # else a list of numbers, which may well be the answer
            return loop.rounds, period
    runs = [(sum(1 for _ in run), sentence) for sentence, run in groupby(sentences)]
    return max((run for run in runs if run[0] >= ROUNDS and run[0] * len(run[1]) >= LOOP), default=(0, ""))


def ending_loop(text: Sequence[Hashable], rounds: int, least: int) -> Loop | None:
    """The shortest period that the end of `text` repeats so often, over `least` elements in all."""
    end = text[-TAIL:][::-1]
    for period, match in enumerate(_matches(end)):
        if period and match + 1 >= (rounds - 1) * period and match + period >= least:  # the last space is often missing
            start = _first_of_period(text, period, len(text) - period - match)
            return Loop(round((len(text) - start) / period), start, period)
    return None


def _matches(text: Sequence[Hashable]) -> list[int]:
    """The Z function: how far the text agrees with itself shifted by each place (Gusfield 1997, section 1.4)."""
    size = len(text)
    found = [0] * size
    left = right = 0
    for place in range(1, size):
        match = min(right - place, found[place - left]) if place < right else 0
        while place + match < size and text[match] == text[place + match]:
            match += 1
        found[place] = match
        if place + match > right:
            left, right = place, place + match
    return found


def _first_of_period(text: Sequence[Hashable], period: int, known: int) -> int:
    """Where the period begins to hold, at `known` or before; found by halves, each compared by slices."""
    low, high = 0, known
    while low < high:
        middle = (low + high) // 2
        if text[middle:high] == text[middle + period : high + period]:
            high = middle
        else:
            low = middle + 1
    return high


def ngrams_again(said: Sequence[str]) -> float:
    """Share of words that lie in an n-gram said before."""
    ids: dict[str, int] = {}
    numbers = np.array([ids.setdefault(word, len(ids)) for word in said], dtype=np.uint64)
    places = len(numbers) - NGRAM + 1
    if places < 2:
        return 0.0
    grams = np.zeros(places, dtype=np.uint64)
    for shift in range(NGRAM):  # a polynomial over the words, modulo 2 ** 64
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + numbers[shift : shift + places] + np.uint64(1)
    again = np.ones(places, dtype=np.int64)
    again[np.unique(grams, return_index=True)[1]] = 0
    edges = np.zeros(len(numbers) + 1, dtype=np.int64)
    edges[:places] += again
    edges[NGRAM:] -= again
    return float((np.cumsum(edges)[:-1] > 0).mean())


def _said_again(sentences: Sequence[str], size: int) -> tuple[float, str]:
    """Share of a text's characters in sentences said before, and the first of these."""
    seen: set[str] = set()
    again, first = 0, ""
    for sentence in sentences:
        if len(sentence) < SENTENCE:
            continue
        if sentence in seen:
            again += len(sentence)
            first = first or quoted(sentence)
        seen.add(sentence)
    return again / max(1, size), first
