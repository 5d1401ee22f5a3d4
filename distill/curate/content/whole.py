"""Whole: texts that are too long to look at, broken, or empty.

Runs before every other filter, so that those may take time linear in the text. Lengths are counted before anything
else is read: 5 MB are refused in microseconds. What is not covered: private-use characters and marks of writing
direction stand in real texts and are let through; whether an answer was cut is asked by others.
"""

import re
from dataclasses import dataclass

from pydantic import Field

from distill.curate.content.finding import Finding, Text
from distill.judge.style.score import quoted
from distill.prompts import END_THINK, THINK
from distill.recipe import StageConfig


class SizeConfig(StageConfig):
    """Longest texts looked at; longer ones are dropped whole, never cut."""

    most_characters: int = Field(default=200_000, gt=0)
    """Characters of what the student is to say. 32,768 tokens of R1's mathematics are about 100,000."""
    most_bytes: int = Field(default=600_000, gt=0)
    """The same in bytes of UTF-8; Chinese takes three a character."""
    most_prompt_characters: int = Field(default=100_000, gt=0)
    """Characters of the problem."""


class CharactersConfig(StageConfig):
    """Characters no text should hold: what a broken decoder, cutter or crawler leaves behind."""

    most_replaced: int = Field(default=0, ge=0)
    """U+FFFD a text may hold, in prompt and completion together; each stands for bytes that were lost."""
    most_control: int = Field(default=0, ge=0)
    """NULs, escapes and other control characters a text may hold; tabs and line ends are none."""


class ThinkBlockConfig(StageConfig):
    """One think block, opened before it is closed, nothing behind it that opens or closes again; or none at all."""


class AnswerConfig(StageConfig):
    """Something has to be said behind the thought."""

    least_letters: int = Field(default=1, ge=1)
    """Letters or digits the answer holds at least."""


@dataclass(frozen=True, slots=True)
class Size:
    """Drops what is too long to be looked at."""

    config: SizeConfig
    name: str = "size"

    def look(self, text: Text) -> Finding | None:
        """`too-many-characters`, `too-many-bytes` or `prompt-too-long`; the value is the count."""
        asked, said = len(text.problem.prompt), len(text.whole)
        if asked > self.config.most_prompt_characters:
            return _over("prompt-too-long", asked, self.config.most_prompt_characters, "characters in the prompt")
        if said > self.config.most_characters:
            return _over("too-many-characters", said, self.config.most_characters, "characters")
        if 4 * said > self.config.most_bytes:  # UTF-8 has at most four bytes a character
            size = len(text.whole.encode("utf-8", "surrogatepass"))
            if size > self.config.most_bytes:
                return _over("too-many-bytes", size, self.config.most_bytes, "bytes of UTF-8")
        return None


LONE = re.compile("[\ud800-\udfff]")
REPLACED = re.compile("\ufffd")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Characters:
    """Drops texts with broken characters."""

    config: CharactersConfig
    name: str = "characters"

    def look(self, text: Text) -> Finding | None:
        """`lone-surrogate`, `replacement-character` or `control-character`; the value is how many."""
        parts = (text.problem.prompt, text.whole)
        for reason, pattern, most in (
            ("lone-surrogate", LONE, 0),
            ("replacement-character", REPLACED, self.config.most_replaced),
            ("control-character", CONTROL, self.config.most_control),
        ):
            found = [(len(pattern.findall(part)), part, first) for part in parts if (first := pattern.search(part))]
            count = sum(number for number, _, _ in found)
            if count > most:
                _, part, first = found[0]
                where = "prompt" if part is parts[0] else "text"
                around = quoted(part[max(0, first.start() - 10) : first.end() + 10])
                return Finding(reason, count, most, f"{count:,} of them, the first in the {where}: {around}")
        return None


@dataclass(frozen=True, slots=True)
class ThinkBlock:
    """Drops texts whose think block is broken; those without one pass."""

    config: ThinkBlockConfig
    name: str = "think-block"

    def look(self, text: Text) -> Finding | None:
        """`broken-think-block`; the value counts the tags, opening and closing."""
        said = text.whole
        opened, closed = said.count(THINK), said.count(END_THINK)
        if opened == closed == 0 and text.answer is not None:
            return None
        before, _, _ = said.partition(THINK)
        if closed == 0:
            fault = "never closed"
        elif opened == 0:
            fault = "closed, never opened"
        elif opened > 1 or closed > 1:
            fault = "more than one"
        elif END_THINK in before:
            fault = "closed before it is opened"
        elif before.strip():
            fault = f"text before it: {quoted(before.lstrip())}"
        else:
            return None
        return Finding("broken-think-block", f"{opened} opened, {closed} closed", "1 opened, 1 closed", fault)


@dataclass(frozen=True, slots=True)
class Answer:
    """Drops texts without an answer."""

    config: AnswerConfig
    name: str = "answer"

    def look(self, text: Text) -> Finding | None:
        """`empty-answer`; the value is how many letters and digits there are."""
        said = text.answer or ""
        least = self.config.least_letters
        count = 0
        for mark in said:
            count += mark.isalnum()
            if count >= least:
                return None
        return Finding("empty-answer", count, least, f"{count} letters and digits in {quoted(said)}")


def _over(reason: str, value: int, most: int, what: str) -> Finding:
    return Finding(reason, value, most, f"{value:,} {what}, at most {most:,}")
