"""Accounting: what a harvest has spent, and whether its budget affords the next request.

Everything is counted from what is stored: traces say their tokens, the clock its hours. So a kill
loses no count, and whoever resumes knows what was spent before. Before a request is handed to the
sampler its worst case is set aside (each sample as long as it may be, a prompt token for each byte);
what an answer did not use is free again. So tokens and their cost never exceed the budget, and
near its end fewer requests are under way.
What is not seen: calls that brought no trace, since they broke, or were cut by a kill. A provider
may charge for them.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distill.errors import StoppedError, UserError
from distill.harvest.budget import LIMITS, BudgetConfig
from distill.harvest.clock import Clock
from distill.harvest.prices import Price, find_prices
from distill.records import Message, Trace
from distill.sampling.protocols import Request

RATE_AFTER = 5.0
"""Seconds an attempt asks before its rate is told."""
TURN = 16
"""Tokens a chat template may put around a turn."""


@dataclass(slots=True)
class Spend:
    """What one teacher, or one problem, took."""

    traces: int = 0
    prompt: float = 0.0
    """Tokens. A prompt that several samples of one call shared counts once."""
    cached: float = 0.0
    """Of these, read from a server's cache."""
    completion: int = 0

    def __iadd__(self, other: "Spend") -> Self:
        self.traces += other.traces
        self.prompt += other.prompt
        self.cached += other.cached
        self.completion += other.completion
        return self

    def cost(self, price: Price) -> float:
        """Of its tokens; hours are the clock's matter."""
        return price.of_tokens(self.prompt, self.cached, self.completion)


class Billing:
    """What traces took, one by one. A continued thought is paid for once, and read again as a prompt."""

    def __init__(self, *, continues: bool) -> None:
        """`continues`: whether truncated traces may have been continued; else none of them is remembered."""
        self._continues = continues
        self._cut: dict[str, tuple[int, int]] = {}

    def of(self, trace: Trace) -> Spend:
        """Traces have to come in the order they were stored."""
        prompt, completion = trace.prompt_tokens, trace.completion_tokens
        parent = self._cut.get(trace.parent or "")
        if self._continues and trace.finish == "length":
            self._cut[trace.id] = prompt, completion
        if parent is not None:
            prompt, completion = prompt + parent[1], completion - parent[1]
        together = trace.together or 1
        return Spend(1, prompt / together, (trace.cached_tokens or 0) / together, completion)


class Account:
    """One harvest's spending. Open while it runs."""

    def __init__(
        self,
        out: Path,
        budget: BudgetConfig | None,
        samplers: Sequence[str],
        *,
        continues: bool = False,
        begun: float | None = None,
    ) -> None:
        """`samplers`: who is asked, by name; `begun` as for the clock. Raises UserError where one has no price."""
        self.out, self.budget = out, budget or BudgetConfig.model_construct()
        self.prices = find_prices(self.budget.prices, self.budget.price)
        self._hourly = max((self._of_an_hour(name) for name in samplers), default=0.0)
        self.clock = Clock(out, begun)
        self.by_sampler: dict[str, Spend] = defaultdict(Spend)
        self.spent_out: str | None = None
        """The limit that affords no further request; None while there is room."""
        self._billing = Billing(continues=continues)
        self._counted = False
        self._reserved: dict[tuple[str, Request], tuple[int, float]] = {}
        self._first: dict[str, float] = {}
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        self.clock.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clock.__exit__(kind, error, trace)

    def count(self, stored: Iterable[Trace]) -> Iterator[Trace]:
        """Pass stored traces through; the first time they are read to the end, they are what was spent before."""
        counting = not self._counted
        if counting:
            self.by_sampler.clear()
        for trace in stored:
            if counting:
                self.by_sampler[trace.sampler.name] += self._billing.of(trace)
            yield trace
        if counting:
            self._counted, self._first, self._since = True, self.spent(), time.monotonic()

    @property
    def limited(self) -> bool:
        """Whether it may come to an early end."""
        return self.budget.limited

    def begin(self) -> None:
        """Nothing is under way."""
        self._reserved.clear()

    def admits(self, teacher: str, request: Request, sampler: str) -> int:
        """How many samples of a request to a teacher the budget affords at worst; those are set aside."""
        self.clock.check()
        if not self.limited:
            return request.n
        spent, budget, fits = self.spent(), self.budget, request.n
        worst = self._worst(request, sampler)
        over: dict[str, int] = {}
        if budget.tokens is not None:
            left = budget.tokens - spent["tokens"] - sum(tokens for tokens, _ in self._reserved.values())
            over["tokens"] = int(max(left, 0) // request.params.max_tokens)
        if budget.cost is not None:
            left = budget.cost - spent["cost"] - sum(cost for _, cost in self._reserved.values())
            over["cost"] = int(max(left, 0.0) // worst) if worst else (fits if left > 0 else 0)
        if budget.gpu_hours is not None and spent["gpu_hours"] >= budget.gpu_hours:
            over["gpu_hours"] = 0
        for limit, most in over.items():
            if most < fits:
                fits, self.spent_out = most, limit
        if fits == request.n:
            self.spent_out = None
        if fits:
            self._reserved[teacher, replace(request, n=fits)] = fits * request.params.max_tokens, fits * worst
        return fits

    def take(self, teacher: str, request: Request, traces: Sequence[Trace]) -> None:
        """Traces of a request to a teacher are stored: what they did not use is free again."""
        self._reserved.pop((teacher, request), None)
        for trace in traces:
            self.by_sampler[trace.sampler.name] += self._billing.of(trace)

    def spent(self) -> dict[str, float]:
        """By limit, all attempts together; `cost` where there are prices."""
        found = {
            "tokens": float(sum(spend.completion for _, spend in self._stands)),
            "gpu_hours": self.clock.seconds / 3600 * (self.budget.gpus or 0),
        }
        if self.prices is not None:
            found["cost"] = sum(spend.cost(self.prices.of(name)) for name, spend in self._stands)
            found["cost"] += found["gpu_hours"] * self._hourly
        return found

    @property
    def _stands(self) -> list[tuple[str, Spend]]:
        """A copy in one step: the panel reads from a thread of its own."""
        return list(self.by_sampler.items())

    def stop(self) -> None:
        """The budget affords nothing more. Raises StoppedError unless it says to finish with what is there."""
        assert self.spent_out is not None, "there is room"
        if self.budget.on_spent == "stop":
            raise StoppedError(
                f"{self.why}; nothing is lost: raise budget.{self.spent_out} and run the same command to go on, or "
                f"set budget.on_spent to finish with what is there"
            )

    @property
    def why(self) -> str:
        """One line: what the budget was and what is spent."""
        traces = sum(spend.traces for _, spend in self._stands)
        return f"budget spent ({self.spent_out}): {self.told}; {traces:,} traces stored"

    @property
    def told(self) -> str:
        """What is spent, beside what may be."""
        spent, currency = self.spent(), self.prices.currency if self.prices else ""
        parts = [_beside(spent["tokens"], self.budget.tokens, "{:,.0f}", " tokens")]
        if "cost" in spent:
            parts.append(_beside(spent["cost"], self.budget.cost, "{:,.4g}", f" {currency}"))
        if self.budget.gpus is not None:
            parts.append(_beside(spent["gpu_hours"], self.budget.gpu_hours, "{:,.3g}", " GPU hours"))
        return ", ".join(parts)

    @property
    def lasts(self) -> float | None:
        """Seconds the budget lasts at the rate of this attempt; None where nothing limits it or little is known."""
        now, elapsed, left = self.spent(), time.monotonic() - self._since, []
        if elapsed < RATE_AFTER:
            return None
        for limit in LIMITS:
            most = getattr(self.budget, limit)
            used = now.get(limit, 0.0) - self._first.get(limit, 0.0)
            if most is not None and used > 0:
                left.append(max(most - now[limit], 0.0) * elapsed / used)
        return min(left, default=None)

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        spent = self.spent()
        return {
            "by_sampler": {
                name: {
                    "traces": spend.traces,
                    "prompt_tokens": round(spend.prompt),
                    "cached_tokens": round(spend.cached),
                    "completion_tokens": spend.completion,
                }
                for name, spend in sorted(self.by_sampler.items())
            },
            "seconds": round(self.clock.seconds, 3),
            "setup_seconds": round(self.clock.setup, 3),
            **({"gpu_hours": round(spent["gpu_hours"], 6)} if self.budget.gpus is not None else {}),
            **({"cost": round(spent["cost"], 6), "currency": self.prices.currency} if self.prices else {}),
        }

    def _worst(self, request: Request, sampler: str) -> float:
        """The most one sample of a request can cost, of tokens."""
        if self.prices is None:
            return 0.0
        return self.prices.of(sampler).of_tokens(most_tokens(request.messages), 0, request.params.max_tokens)

    def _of_an_hour(self, sampler: str) -> float:
        price = self.prices.of(sampler).gpu_hour if self.prices else None
        if price is not None and self.budget.gpus is None:
            raise UserError(f"[harvest.budget] gpus: missing, {sampler!r} is priced by the GPU hour")
        return price or 0.0


def most_tokens(messages: Sequence[Message]) -> int:
    """Tokens a conversation can have at most: none is shorter than a byte."""
    return sum(len(message.content.encode(errors="replace")) + TURN for message in messages) + TURN


def _beside(spent: float, limit: float | None, form: str, unit: str) -> str:
    if limit is None:
        return form.format(spent) + unit
    return f"{form.format(spent)} of {form.format(limit)}{unit} ({spent / limit:.0%})"
