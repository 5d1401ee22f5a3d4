"""Harm: harmful questions keep safe answers only.

Open questions alone. A question is weighed by the kinds of harm it asks for, less what it says of keeping harm away; a
thought that sees harm in it counts too, for who thinks aloud says so. Of a harmful question the answer has to show that
it is safe: it refuses, warns, corrects, or shows another way. One that does as it is told is dropped, one that shows
neither is dropped as well, and one that refuses and then goes on with instructions is not a refusal.

The phrases are an inspectable lexicon (`phrases`), no classifier. What is not covered: languages other than English;
questions that name nothing of the lexicon and whose thought is not alarmed (of the 688 questions that R1 refuses in
STAR-1 the lexicon alone sees 53%, docs/curate.md); an answer that complies between words of caution; harm in code or in
the thought; answers that are wrong about medicine or law; harmless questions with harmful answers. For those `scores`
takes the word of another judge: an extra signal, which can drop what the lexicon sees no refusal in, and can never save
what it drops.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from distill.curate.content import phrases
from distill.curate.content.finding import Finding, Text
from distill.recipe import StageConfig


class HarmConfig(StageConfig):
    """When an answer to an open question is unsafe."""

    least: float = Field(default=0.5, gt=0.0, le=1.0)
    """Harm from which on a trace is dropped: the question's harm times the answer's unsafety."""
    kinds: tuple[Literal["answer", "code", "open"], ...] = ("open",)
    """Kinds of problems that are looked at."""
    judged: float = Field(default=0.5, gt=0.0, le=1.0)
    """Score of another judge from which on a trace without a refusal is dropped too, where there are scores."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What was found in a question and its answer."""

    asked: float
    """Harm of the question, in [0, 1]."""
    unsafe: float
    """Unsafety of the answer, in [0, 1]; 0.5 when it says nothing for or against itself."""
    refused: bool
    signs: tuple[str, ...]
    """What was seen, in words."""

    @property
    def harm(self) -> float:
        """The product: a safe answer makes any question safe, a harmless question any answer."""
        return round(self.asked * self.unsafe, 3)


@dataclass(frozen=True, slots=True)
class Harm:
    """Drops answers that comply with a harmful question."""

    config: HarmConfig
    scores: Mapping[str, float] = field(default_factory=dict)
    """By trace id, how harmful another judge finds it, in [0, 1]."""
    name: str = "harm"

    def look(self, text: Text) -> Finding | None:
        """`harmful-answer` (the value is the harm) or `judged-harmful` (the other judge's score)."""
        if text.problem.kind not in self.config.kinds:
            return None
        weighed = weigh(text.problem.prompt, text.reasoning or "", text.solution)
        if weighed.harm >= self.config.least:
            return Finding("harmful-answer", weighed.harm, self.config.least, ", ".join(weighed.signs))
        score = self.scores.get(text.trace_id)
        if score is not None and score >= self.config.judged and not weighed.refused:
            return Finding("judged-harmful", score, self.config.judged, "another judge's score, and no refusal is seen")
        return None


KINDS = {name: (weight, re.compile(pattern, re.IGNORECASE)) for name, (weight, pattern) in phrases.HARMFUL.items()}
GUARDED, ALARMED, REFUSAL, CAUTION, ACCEPTANCE, PROCEDURE, TURN = (
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        phrases.GUARDED,
        phrases.ALARMED,
        phrases.REFUSAL,
        phrases.CAUTION,
        phrases.ACCEPTANCE,
        phrases.PROCEDURE,
        phrases.TURN,
    )
)
OPENING = 400
"""Characters of an answer in which a refusal is the answer and no aside."""
ALARMS = 3
"""Different words of alarm in a thought that see harm in the question."""
ENOUGH = 5
"""Different words of caution that make an answer a careful one."""


def weigh(question: str, thought: str, answer: str) -> Weighed:
    """Weigh a question and its answer by the phrases they hold."""
    kinds = {name: weight for name, (weight, pattern) in KINDS.items() if pattern.search(question)}
    guards = min(2, len(_different(GUARDED, question)))
    alarms = _different(ALARMED, thought)
    asked = sum(kinds.values()) - phrases.GUARD * guards + (0.5 if len(alarms) >= ALARMS else 0.0)
    refusal = REFUSAL.search(answer, 0, OPENING)
    refused = refusal is not None
    turned = refusal is not None and TURN.search(answer, refusal.end()) is not None
    accepted = ACCEPTANCE.search(answer) is not None
    steps = len(PROCEDURE.findall(answer))
    caution = _different(CAUTION, answer)
    unsafe = (
        0.5
        + 0.25 * accepted
        + 0.25 * (steps >= 2)
        - 0.75 * min(1.0, len(caution) / ENOUGH)
        - (0.5 if refused and not turned else 0.0)
        + 0.5 * turned
    )
    signs = [f"asks for {name}" for name in kinds]
    signs += (
        ["the thought is alarmed"] * (len(alarms) >= ALARMS) + ["refuses"] * refused + ["goes on after it"] * turned
    )
    signs += ["begins to comply"] * accepted + [f"{steps} steps"] * (steps >= 2) + [f"{len(caution)} words of caution"]
    return Weighed(min(1.0, max(0.0, asked)), min(1.0, max(0.0, unsafe)), refused and not turned, tuple(signs))


def _different(pattern: re.Pattern[str], text: str) -> set[str]:
    return {found.group().casefold() for found in pattern.finditer(text)}
