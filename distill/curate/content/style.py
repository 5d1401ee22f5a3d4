"""Style: format, language, repetition and readability, as the judge's looks score them.

The measures, their sources and what they cannot see are those of distill.judge.style (docs/judge.md); here they get a
threshold and a reason code. Our own: prompts in two languages, for which no trace is in the prompt's language.
What is not covered: a prompt that changes its language within a sentence of one script, or for fewer than LEAST words.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from pydantic import Field

from distill.curate.content.finding import Finding, Text
from distill.judge.style.form import form
from distill.judge.style.language import certain_language, language
from distill.judge.style.prose import Word, prose, words
from distill.judge.style.readability import readability
from distill.judge.style.repetition import SENTENCES, repetition
from distill.judge.style.score import Style
from distill.recipe import StageConfig

LEAST = 8
"""Words from which on a second language of a prompt is more than a quotation or a name."""


class FormatConfig(StageConfig):
    """Share of the judge's form checks."""

    least: float = Field(default=1.0, ge=0.0, le=1.0)
    """Score a completion has at least. Every completion without a think block is below 1."""


class LanguageConfig(StageConfig):
    """Share of words in the language of the prompt."""

    least: float = Field(default=0.8, ge=0.0, le=1.0)
    """Score a completion has at least. Real English ones end at 0.86, soups of scripts begin at 0.60."""
    prompts: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of a prompt's words in a second language from which on it is a prompt in two; 1 lets all pass."""


class RepetitionConfig(StageConfig):
    """Loops, sentences and n-grams said again."""

    least: float = Field(default=0.5, ge=0.0, le=1.0)
    """Score a completion has at least: below 0.5 are four rounds of a loop and more."""


class ReadabilityConfig(StageConfig):
    """Whether a person could read it."""

    least: float = Field(default=0.25, ge=0.0, le=1.0)
    """Score a completion has at least: 0.25 forgives two slips or one kind of noise, for short texts hold odd words."""


@dataclass(frozen=True, slots=True)
class Format:
    """Drops completions without one closed think block and one answer."""

    config: FormatConfig
    name: str = "format"

    def look(self, text: Text) -> Finding | None:
        """`format`; the value is the score. Whether the completion stopped by itself is asked elsewhere."""
        return _below("format", form(text.whole, "stop"), self.config.least)


@dataclass(frozen=True, slots=True)
class Language:
    """Drops prompts in two languages and completions in another than the prompt's."""

    config: LanguageConfig
    name: str = "language"
    _prompts: dict[str, Finding | None] = field(default_factory=dict)
    """What the last prompt said, which its other traces need not ask again."""

    def look(self, text: Text) -> Finding | None:
        """`prompt-in-two-languages` (the value is the second one's share) or `language` (the score)."""
        prompt = text.problem.prompt
        if prompt not in self._prompts:
            self._prompts.clear()
            self._prompts[prompt] = self._prompt(prompt)
        if self._prompts[prompt] is not None:
            return self._prompts[prompt]
        return _below("language", language(text.reasoning or "", text.solution, prompt), self.config.least)

    def _prompt(self, prompt: str) -> Finding | None:
        shares = languages(prompt)
        if len(shares) < 2 or self.config.prompts == 1:
            return None
        (first, _), (second, share) = sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:2]
        if share < self.config.prompts:
            return None
        return Finding(
            "prompt-in-two-languages", round(share, 3), self.config.prompts, f"{first}, and {share:.0%} {second}"
        )


@dataclass(frozen=True, slots=True)
class Repetition:
    """Drops loops and completions that go in circles."""

    config: RepetitionConfig
    name: str = "repetition"

    def look(self, text: Text) -> Finding | None:
        """`repetition`; the value is the score."""
        return _below("repetition", repetition(text.reasoning or "", text.solution), self.config.least)


@dataclass(frozen=True, slots=True)
class Readability:
    """Drops noise."""

    config: ReadabilityConfig
    name: str = "readability"

    def look(self, text: Text) -> Finding | None:
        """`readability`; the value is the score."""
        return _below("readability", readability(text.reasoning or "", text.solution), self.config.least)


def languages(prompt: str) -> dict[str, float]:
    """Share of a prompt's words by language, of those in which it says LEAST words or more.

    Sentences are told apart by script and, within one, by language; those of fewer than LEAST words and those py3langid
    is not sure of count for no language where there are several.
    """
    by_script: dict[str, list[list[Word]]] = defaultdict(list)
    total = 0
    for sentence in SENTENCES.findall(prose(prompt)):
        runs: dict[str, list[Word]] = defaultdict(list)
        for word in words(sentence):
            runs[word.script].append(word)
        total += sum(map(len, runs.values()))
        if "kana" in runs:
            runs["kana"] += runs.pop("han", [])
        for script, said in runs.items():
            by_script[script].append(said)
    found: dict[str, int] = {}
    for script, sentences in by_script.items():
        found.update(_within(script, sentences))
    return {name: count / total for name, count in found.items() if count >= LEAST}


def _within(script: str, sentences: list[list[Word]]) -> dict[str, int]:
    """Words by language of one script; by the script's name where no language is certain."""
    said = [word for sentence in sentences for word in sentence]
    named: dict[str, list[Word]] = defaultdict(list)
    for sentence in sentences:
        name = certain_language(sentence, script) if len(sentence) >= LEAST else None
        if name:
            named[name] += sentence
    sure = {
        name: group
        for name, group in named.items()
        if len({word.text for word in group}) >= LEAST and certain_language(group, script) == name
    }
    if len(sure) < 2:
        return {certain_language(said, script) or script: len(said)}
    return {name: len(group) for name, group in sure.items()}


def _below(reason: str, style: Style, least: float) -> Finding | None:
    if style.score >= least:
        return None
    return Finding(reason, round(style.score, 4), least, style.reason)
