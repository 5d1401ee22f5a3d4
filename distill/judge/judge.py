"""Judge: one verdict for one trace, the same for training data, rewards and benchmarks.

Cheap decisions are made here and now; programs and algebra go to watched child processes,
which start when first needed. Equal questions are asked once. What the judge cannot decide
it says so about (`undecided`, `timeout`, `gold_bad`): none of these is `wrong`.
"""

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.judge import programs
from distill.judge.equivalence import Ruling, asked_of_algebra, compare, explosive, gold_answer
from distill.judge.extraction import extract, final_part
from distill.judge.notation import normalize
from distill.judge.numerals import quantity
from distill.judge.servers import Crew, Kind, LateError
from distill.problems.families import FAMILIES
from distill.problems.variants import base_source
from distill.prompts import split_thought
from distill.records import Finish, Problem, Trace, Verdict
from distill.sandbox import WALLED, Sandbox

JUDGE_VERSION = "4"
"""Raised when the same trace could get another verdict."""

ALGEBRA = Kind("algebra", Path(__file__).parent / "algebra" / "server.py", ("-P",), inherit_environment=True)
GRACE_SECONDS = 5.0
"""What a server gets beyond the deadline it keeps itself, before it is killed too."""
LONGEST_TIMEOUT = 86_400
"""A day, in seconds."""
MOST_REMEMBERED = 50_000
AHEAD = 512
"""Verdicts `judge_many` may have under way, per worker, beyond the one it waits for."""


@dataclass(frozen=True, slots=True)
class Said:
    """A completion that is no trace (yet), such as a rollout in training."""

    text: str
    finish: Finish = "stop"
    think_open: bool = False
    """True when the prompt already opened the think block."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A verdict on its way: everything but, perhaps, the ruling."""

    problem: Problem
    said: Trace | Said
    ruling: "Ruling | Future[Ruling]"
    extracted: str | None = None

    @property
    def decided(self) -> bool:
        return isinstance(self.ruling, Ruling) or self.ruling.done()

    def verdict(self) -> Verdict:
        """Waits for the ruling when there is none yet."""
        ruling = self.ruling if isinstance(self.ruling, Ruling) else self.ruling.result()
        return Verdict(
            trace_id=self.said.id if isinstance(self.said, Trace) else "",
            judge_version=JUDGE_VERSION,
            status=ruling.status,
            extracted=self.extracted,
            expected=self.problem.answer,
            why=ruling.why,
            seconds=ruling.seconds,
            isolation=ruling.isolation,
        )


class Judge:
    """Judges traces. Close it, or use it in a `with`, to end its child processes.

    Any thread may ask, and so may a process it was forked or pickled into: that one starts
    child processes of its own.
    """

    def __init__(self, *, workers: int = 2, timeout: float = 10.0, sandbox: Sandbox = WALLED) -> None:
        """`workers`: child processes of each kind. `timeout`: wall seconds one program or comparison may take."""
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise UserError(f"timeout {timeout:g}: expected seconds above 0, at most {LONGEST_TIMEOUT:,}")
        self.timeout = timeout
        self.workers = workers
        self.sandbox = sandbox
        self._inherited: list[object] = []
        """What belongs to the process this one was forked from, kept so that nothing here cleans it up."""
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._programs = Crew(programs.server(self.sandbox))
        self._algebra = Crew(ALGEBRA)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="judge")
        self._rulings: dict[bytes, Future[Ruling]] = {}
        self._lock = threading.Lock()

    def _own(self) -> None:
        """After a fork: start anew instead of speaking into the pipes of the parent."""
        if self._process != os.getpid():
            self._inherited += [self._programs, self._algebra, self._threads, self._rulings]
            self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self.workers, "timeout": self.timeout, "sandbox": self.sandbox}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes; what was not begun is dropped."""
        self._own()
        self._threads.shutdown(cancel_futures=True)
        self._programs.close()
        self._algebra.close()

    @property
    def walls(self) -> str:
        """What stands around programs, `Landlock 7, seccomp, namespaces` say; empty before one was run."""
        return self._programs.layers

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Raise SandboxUnavailableError now when programs among the problems could not be run later."""
        self._own()
        if any(problem.tests is not None for problem in problems):
            self._programs.prepare()

    def judge(self, problem: Problem, said: Trace | Said) -> Verdict:
        """One verdict. Raises JudgeError when the judge, not the answer, failed."""
        return self._begin(problem, said).verdict()

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace | Said]]) -> Iterator[Verdict]:
        """One verdict a pair, in order, each as soon as it and those before it are there.

        Reads ahead while a slow one is under way, so that slow ones overlap.
        """
        cases: deque[_Case] = deque()
        for problem, said in pairs:
            cases.append(self._begin(problem, said))
            while cases and (cases[0].decided or len(cases) > AHEAD * self.workers):
                yield cases.popleft().verdict()
        while cases:
            yield cases.popleft().verdict()

    def _begin(self, problem: Problem, said: Trace | Said) -> _Case:
        """Decide at once what is cheap; set a server to work on the rest."""
        self._own()
        if problem.kind == "open":
            return _Case(problem, said, Ruling("undecided", "an open problem has no gold answer"))
        if problem.tests is not None and (bad := programs.unusable(problem.tests)):
            return _Case(problem, said, Ruling("gold_bad", bad))
        if problem.tests is None and not normalize(problem.answer or ""):
            return _Case(problem, said, Ruling("gold_bad", "the gold answer is empty"))
        answer = said.answer if isinstance(said, Trace) else split_thought(said.text, think_open=said.think_open).answer
        answer = None if answer is None else final_part(answer)
        if answer is None:
            return _Case(problem, said, _nothing(said, "the thought never ends"))
        if not answer:
            return _Case(problem, said, _nothing(said, "nothing follows the thought"))
        if problem.tests is not None:
            source = programs.candidate_source(problem.tests, answer, said.text)
            question = programs.question(problem.tests, source, self.timeout)
            ruling = self._asked(self._programs, question, self.timeout + GRACE_SECONDS)
            return _Case(problem, said, ruling)
        return self._begin_answer(problem, said, answer)

    def _begin_answer(self, problem: Problem, said: Trace | Said, answer: str) -> _Case:
        gold = gold_answer(normalize(problem.answer or ""))
        found = extract(answer, gold)
        if found is None or (said.finish == "length" and not found.whole):
            return _Case(problem, said, _nothing(said, "no answer found"))
        text = normalize(found.text)
        if base_source(problem.source) in FAMILIES and gold.quantity and quantity(text) is None:
            return _Case(problem, said, Ruling("wrong", "not a number"), found.text)  # 7 + 5 is no answer there
        ruling = compare(gold, text)
        if ruling is None:
            refused = explosive(gold.text) or explosive(text)
            ruling = Ruling("undecided", refused) if refused else None
        if ruling is None:
            question = asked_of_algebra(gold, text) | {"seconds": self.timeout}
            return _Case(problem, said, self._asked(self._algebra, question, self.timeout + GRACE_SECONDS), found.text)
        return _Case(problem, said, ruling, found.text)

    def _asked(self, crew: Crew, question: dict[str, Any], seconds: float) -> "Future[Ruling]":
        """The ruling of a server, from memory when the same was asked before."""
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).digest()
        with self._lock:
            known = self._rulings.get(key)
            if known is not None and not (known.done() and _passing(known)):
                return known
            if len(self._rulings) >= MOST_REMEMBERED:
                del self._rulings[next(iter(self._rulings))]
            self._rulings[key] = self._threads.submit(_rule, crew, question, seconds)
            return self._rulings[key]


def _passing(known: "Future[Ruling]") -> bool:
    """Errors of ours and timeouts may be the moment's; they are asked again."""
    return known.exception() is not None or known.result().status == "timeout"


def _nothing(said: Trace | Said, why: str) -> Ruling:
    """There is no answer: cut off, or never given."""
    return Ruling("truncated", "cut before an answer") if said.finish == "length" else Ruling("unparsed", why)


def _rule(crew: Crew, question: dict[str, Any], seconds: float) -> Ruling:
    begun = time.monotonic()
    try:
        answer = crew.ask(question, seconds)
    except LateError:
        return Ruling("timeout", f"no answer within {seconds:g} s", seconds)
    took = round(time.monotonic() - begun, 4)
    if answer is None:
        return Ruling("undecided", f"took down the {crew.kind.name} server twice", took)
    return Ruling(answer["status"], answer["why"], took, answer.get("isolation"))
