"""Judge: one verdict for one trace, the same for training data, rewards and benchmarks.

Cheap decisions are made here and now; programs and algebra go to watched child processes,
which start when first needed. Equal questions are asked once. What the judge cannot decide
it says so about (`undecided`, `timeout`, `gold_bad`): none of these is `wrong`.
"""

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.judge import programs
from distill.judge.equivalence import Ruling, compare, explosive, normalize, quantity
from distill.judge.extraction import extract, final_part
from distill.judge.servers import Crew, JudgeError, Kind, Late
from distill.problems.families import FAMILIES
from distill.prompts import split_thought
from distill.records import Finish, Problem, Trace, Verdict

__all__ = ["JUDGE_VERSION", "Judge", "JudgeError"]

JUDGE_VERSION = "1"
"""Raised when the same trace could get another verdict."""

ALGEBRA = Kind("algebra", Path(__file__).with_name("algebra_server.py"), ("-P",), inherit_environment=True)
GRACE_SECONDS = 5.0
"""What a program server gets beyond the deadline it keeps itself, before it is killed too."""
MOST_REMEMBERED = 50_000
AHEAD = 64
"""Verdicts `judge_many` may have under way, per worker, beyond the one it waits for."""


@dataclass(frozen=True, slots=True)
class Said:
    """A completion, as far as the judge cares."""

    trace_id: str
    answer: str | None
    text: str
    finish: Finish


class Judge:
    """Judges traces. Close it, or use it in a `with`, to end its child processes."""

    def __init__(self, *, workers: int = 2, timeout: float = 10.0) -> None:
        """`workers`: child processes of each kind. `timeout`: wall seconds one program or comparison may take."""
        self.timeout = timeout
        self.workers = workers
        self._programs, self._algebra = Crew(programs.SERVER), Crew(ALGEBRA)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        self._rulings: dict[bytes, Future[Ruling]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes; what was not begun is dropped."""
        self._threads.shutdown(cancel_futures=True)
        self._programs.close()
        self._algebra.close()

    def judge(self, problem: Problem, trace: Trace) -> Verdict:
        """The verdict on one trace. Raises JudgeError when the judge, not the answer, failed."""
        return self._begin(problem, _said(trace))()

    def judge_text(self, problem: Problem, text: str, *, finish: Finish = "stop", think_open: bool = False) -> Verdict:
        """The verdict on a text that is no trace yet, such as a rollout."""
        answer = split_thought(text, think_open=think_open).answer
        return self._begin(problem, Said("", answer, text, finish))()

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        """One verdict a pair, in order. Reads ahead, so that slow cases overlap."""
        under_way: deque[Callable[[], Verdict]] = deque()
        for problem, trace in pairs:
            under_way.append(self._begin(problem, _said(trace)))
            if len(under_way) > AHEAD * self.workers:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()

    def _begin(self, problem: Problem, said: Said) -> Callable[[], Verdict]:
        """Start on a verdict; calling the result waits for it."""
        if problem.kind == "open":
            return _ready(problem, said, Ruling("undecided", "an open problem has no gold answer"), None)
        answer = None if said.answer is None else final_part(said.answer)
        if answer is None:
            cut = said.finish == "length"
            why = "cut inside the thought" if cut else "the thought never ends"
            return _ready(problem, said, Ruling("truncated" if cut else "unparsed", why), None)
        if not answer:
            return _ready(problem, said, Ruling("unparsed", "nothing follows the thought"), None)
        if problem.tests is not None:
            source = programs.candidate_source(problem.tests, answer, said.text)
            question = programs.question(problem.tests, source, self.timeout)
            ruling = self._asked(self._programs, question, self.timeout + GRACE_SECONDS)
            return _later(problem, said, ruling, None)
        return self._begin_answer(problem, said, answer)

    def _begin_answer(self, problem: Problem, said: Said, answer: str) -> Callable[[], Verdict]:
        gold = problem.answer or ""
        found = extract(answer, numeric=quantity(normalize(gold)) is not None)
        if found is None or (said.finish == "length" and not found.marked):
            cut = said.finish == "length"
            why = "cut before an answer" if cut else "no answer found"
            return _ready(problem, said, Ruling("truncated" if cut else "unparsed", why), None)
        ruling = compare(gold, found.text)
        if ruling is None and problem.source in FAMILIES:
            ruling = Ruling(
                "wrong", "not a number"
            )  # gold answers of families are numbers: nothing there needs algebra
        if ruling is not None:
            return _ready(problem, said, ruling, found.text)
        gold, text = normalize(gold), normalize(found.text)
        refused = explosive(gold) or explosive(text)
        if refused:
            return _ready(problem, said, Ruling("undecided", refused), found.text)
        later = self._asked(self._algebra, {"gold": gold, "said": text}, self.timeout)
        return _later(problem, said, later, found.text)

    def _asked(self, crew: Crew, question: dict[str, Any], seconds: float) -> "Future[Ruling]":
        """The ruling of a server, from memory when the same was asked before."""
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).digest()
        with self._lock:
            known = self._rulings.get(key)
            if known is not None:
                return known
            if len(self._rulings) >= MOST_REMEMBERED:
                del self._rulings[next(iter(self._rulings))]
            self._rulings[key] = self._threads.submit(_rule, crew, question, seconds)
            return self._rulings[key]


def _said(trace: Trace) -> Said:
    return Said(trace.id, trace.answer, trace.text, trace.finish)


def _rule(crew: Crew, question: dict[str, Any], seconds: float) -> Ruling:
    begun = time.monotonic()
    try:
        answer = crew.ask(question, seconds)
    except Late:
        return Ruling("timeout", f"no answer within {seconds:g} s", seconds)
    took = round(time.monotonic() - begun, 4)
    if answer is None:
        return Ruling("undecided", f"took down the {crew.kind.name} server twice", took)
    return Ruling(answer["status"], answer["why"], took)


def _ready(problem: Problem, said: Said, ruling: Ruling, extracted: str | None) -> Callable[[], Verdict]:
    verdict = _verdict(problem, said, ruling, extracted)
    return lambda: verdict


def _later(problem: Problem, said: Said, ruling: "Future[Ruling]", extracted: str | None) -> Callable[[], Verdict]:
    return lambda: _verdict(problem, said, ruling.result(), extracted)


def _verdict(problem: Problem, said: Said, ruling: Ruling, extracted: str | None) -> Verdict:
    return Verdict(
        trace_id=said.trace_id,
        judge_version=JUDGE_VERSION,
        status=ruling.status,
        extracted=extracted,
        expected=problem.answer,
        why=ruling.why,
        seconds=ruling.seconds,
        isolation="in-process" if problem.tests is not None and said.answer is not None else None,
    )
