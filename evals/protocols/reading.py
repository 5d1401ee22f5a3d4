"""Reading: a protocol's own way from what was said to a verdict, behind the interface of the judge.

The whole text counts, as a base model's does: no thought is parted from it. Patterns and Minerva's phrase are read
here; programs still run in the judge's sandbox, and algebra in its processes. Verdicts name the reading as their judge.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distill.harvest.draw import Judge
from distill.judge.programs import compiles
from distill.records import Problem, Status, Tests, Trace, Verdict
from evals.protocols import minerva
from evals.protocols.protocol import Reading
from evals.protocols.shots import FIRST_TESTS

VERSION = "1"
"""Raised when the same text could be read otherwise."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the judge is asked instead, and what its verdict is to say."""

    problem: Problem
    trace: Trace
    extracted: str
    expected: str | None


class Reader:
    """A reading as a judge."""

    def __init__(self, reading: Reading, judge: Judge) -> None:
        self.reading, self.judge = reading, judge

    def prepare(self, problems: Iterable[Problem]) -> None:
        """As the judge's."""
        self.judge.prepare(problems)

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        """One verdict a pair, in order. What can be said at once waits for what the judge was asked before."""
        if self.reading.how == "judge":
            yield from self.judge.judge_many(pairs)
            return
        if self.reading.how == "pattern":
            yield from (self._by_pattern(problem, trace) for problem, trace in pairs)
            return
        waiting: deque[Verdict | _Asked] = deque()

        def asked() -> Iterator[tuple[Problem, Trace]]:
            for problem, trace in pairs:
                found = self._program(problem, trace) if self.reading.how == "program" else self._final(problem, trace)
                waiting.append(found)
                if isinstance(found, _Asked):
                    yield found.problem, found.trace

        def said() -> Iterator[Verdict]:
            while waiting and isinstance(waiting[0], Verdict):
                found = waiting.popleft()
                assert isinstance(found, Verdict)
                yield found

        for verdict in self.judge.judge_many(asked()):
            yield from said()
            one = waiting.popleft()
            assert isinstance(one, _Asked), "the judge answers in order"
            says = {"extracted": one.extracted, "expected": one.expected, "trace_id": one.trace.id}
            yield verdict.model_copy(
                update={**says, "judge_version": f"{self._version}, judge {verdict.judge_version}"}
            )
        yield from said()

    @property
    def _version(self) -> str:
        return f"{self.reading.name} {VERSION}"

    def _verdict(self, trace: Trace, status: Status, **facts: Any) -> Verdict:
        return Verdict(trace_id=trace.id, judge_version=self._version, status=status, **facts)

    def _nothing(self, trace: Trace, why: str, expected: str | None) -> Verdict:
        return self._verdict(trace, "truncated" if trace.finish == "length" else "unparsed", why=why, expected=expected)

    def _by_pattern(self, problem: Problem, trace: Trace) -> Verdict:
        expected = problem.answer or ""
        matches = re.findall(self.reading.pattern, trace.text)
        if not matches:
            return self._nothing(trace, "the pattern matches nothing", expected)
        match = matches[-1 if self.reading.last else 0]
        found = (match if isinstance(match, str) else next(filter(None, match))).strip()
        same = self._plain(found) == self._plain(expected)
        return self._verdict(trace, "correct" if same else "wrong", extracted=found, expected=expected)

    def _plain(self, answer: str) -> str:
        for pattern in self.reading.ignore:
            answer = re.sub(pattern, "", answer)
        return answer.lower()

    def _final(self, problem: Problem, trace: Trace) -> Verdict | _Asked:
        expected = minerva.normalized(problem.answer or "")
        said = minerva.final_answer(trace.text)
        if said is None:
            return self._nothing(trace, "the phrase is missing", expected)
        found = minerva.normalized(said)
        if found == expected or not (found and minerva.plain(found) and minerva.plain(expected)):
            status: Status = "correct" if found and found == expected else "wrong"
            return self._verdict(trace, status, extracted=found, expected=expected)
        asked = problem.model_copy(update={"answer": expected})
        return _Asked(asked, _saying(trace, rf"\boxed{{{found}}}"), found, expected)

    def _program(self, problem: Problem, trace: Trace) -> Verdict | _Asked:
        """Prompt and completion as one program, nothing mended: what does not compile is wrong."""
        tests = problem.tests
        assert tests is not None, "checked with the protocol"
        program = tests.prefix + trace.text
        if not compiles(program):
            return self._verdict(trace, "wrong", extracted=program, why="does not compile")
        check = tests.check
        if not isinstance(check, str):
            check = tuple(one for one in check if isinstance(one, str) and one in problem.prompt)[:FIRST_TESTS]
        bare = Tests(entry_point=tests.entry_point, check=check)
        return _Asked(problem.model_copy(update={"tests": bare}), _saying(trace, program), program, None)


def _saying(trace: Trace, text: str) -> Trace:
    """A trace that said something else, whole."""
    said = {"text": text, "answer": text.strip(), "reasoning": None, "finish": "stop", "think_open": False}
    return trace.model_copy(update=said)
