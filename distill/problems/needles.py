"""Needles: a story scattered over a long text about other things, to ask how far a model reads.

    Eva has 4 books . Mia has 7 coins . Eva sells 1 books . ... Tom finds 5 more coins . ... How many coins now ?

Facts that must be found and also chained, as in RULER's variable tracking (Hsieh et al. 2024, arXiv:2404.06654), where
one needle (Kamradt 2023) would only be copied. Thought and answer are those of the story alone. Level = length: so
many times `unit` words, which are as many tokens of the miniature. The number of steps is a knob and does not grow with
the length, so that what is lost from level to level is lost to length.
"""

import random
from typing import ClassVar

from pydantic import Field

from distill.problems.family import Chain
from distill.problems.stories import ITEMS, NAMES, PHRASINGS, Stories
from distill.records import Problem

FILLER_NUMBER = 9
"""Largest number in a sentence that does not count."""


class Needles(Stories):
    """Stories hidden in longer ones."""

    name: ClassVar[str] = "needles"
    learned_levels: ClassVar[int] = 1

    items: int = Field(default=6, ge=2, le=len(ITEMS))
    hops: int = Field(default=3, ge=1, le=16)
    """Steps of the hidden story."""
    unit: int = Field(default=64, ge=1, le=4096)
    """Words of context a level."""

    def generate(self, rng: random.Random, level: int) -> Problem:
        return self._hidden(super().generate(rng, self.hops), rng, level * self.unit, level)

    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem:
        needle, _ = _found(problem)
        return self._hidden(super().paraphrase(needle, rng), rng, len(problem.prompt.split()), problem.level or 1)

    def numbers(self, problem: Problem, rng: random.Random) -> Problem:
        needle, places = _found(problem)
        other = super().numbers(needle, rng)
        sentences = problem.prompt.split(" . ")
        for place, sentence in zip(places, other.prompt.split(" . ")[:-1], strict=True):
            sentences[place] = sentence
        return self._again(other, " . ".join(sentences), problem.level or 1)

    def _hidden(self, story: Problem, rng: random.Random, words: int, level: int) -> Problem:
        *needles, question = story.prompt.split(" . ")
        item = question.split()[2]
        others = [other for other in ITEMS[: self.items] if other != item]
        sentences: list[str] = []
        length = len(story.prompt.split())
        while length < words:
            sentences.append(self._filler(rng, rng.choice(others)))
            length += len(sentences[-1].split()) + 1  # its full stop
        places = sorted(rng.sample(range(len(sentences) + len(needles)), len(needles)))
        for place, needle in zip(places, needles, strict=True):
            sentences.insert(place, needle)
        return self._again(story, " . ".join([*sentences, question]), level)

    def _filler(self, rng: random.Random, item: str) -> str:
        """A sentence about something nobody asks for."""
        name, number = rng.choice(NAMES[: self.names]), rng.randint(1, FILLER_NUMBER)
        forms = ["{name} has {k} {item} .", *(f for kind in self.operations for f in PHRASINGS[kind][: self.phrasings])]
        return rng.choice(forms).format(name=name, k=number, item=item).removesuffix(" .")

    def _again(self, story: Problem, prompt: str, level: int) -> Problem:
        return self._problem(prompt, level, Chain(story.solution or "", story.answer or ""), story.answer or "")


def _found(problem: Problem) -> tuple[Problem, list[int]]:
    """The story alone, and which sentences it stands in."""
    *sentences, question = problem.prompt.split(" . ")
    item = question.split()[2]
    places = [place for place, sentence in enumerate(sentences) if item in sentence.split()]
    prompt = " . ".join([*(sentences[place] for place in places), question])
    return problem.model_copy(update={"prompt": prompt}), places
