"""Panel: what a running harvest is watched by: yield by verdict, spending, and the health of every server.

Lines of plain text; a terminal frames them under the bar, elsewhere they follow the line of progress.
Addresses are shown here and stored nowhere.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, get_args, runtime_checkable

from distill.harvest.accounting import Account
from distill.records import Status
from distill.sampling.endpoint.pool import Health

SERVERS = 12
"""Servers shown, those in trouble first."""


@runtime_checkable
class Served(Protocol):
    """A sampler that speaks through servers."""

    def health(self) -> list[Health]:
        """Every server as it is now."""


class Panel:
    """Knows what came so far, whoever stored it."""

    def __init__(self, account: Account, samplers: Iterable[object]) -> None:
        self._account = account
        self._served = [sampler for sampler in samplers if isinstance(sampler, Served)]
        self._seen: Counter[str] = Counter()

    def see(self, status: str) -> None:
        """A trace has this verdict."""
        self._seen[status] += 1

    def lines(self) -> list[str]:
        """This moment. May be asked from any thread."""
        seen = dict(self._seen)
        total = sum(seen.values())
        shares = (f"{name} {seen[name]:,} ({seen[name] / total:.0%})" for name in _ORDER if seen.get(name))
        lines = ["  ".join(shares)] if seen else []
        lasts = self._account.lasts
        lines.append(f"spent {self._account.told}" + ("" if lasts is None else f"; lasts {_span(lasts)} at this rate"))
        found = [one for served in self._served for one in served.health()]
        return lines + (servers(found, time.time()) if found else [])


_ORDER = (*get_args(Status), "unjudged")


def servers(found: list[Health], now: float) -> list[str]:
    """A line a server, those that are not well first; the rest of many in one line."""
    ranked = sorted(found, key=lambda one: (one.state == "closed", one.waiting_until is None, -one.failed))
    width = max((len(one.url) for one in ranked[:SERVERS]), default=0)
    lines = []
    for one in ranked[:SERVERS]:
        waits = "" if one.waiting_until is None else f"  waits {_span(max(one.waiting_until - now, 0.0))} (Retry-After)"
        lines.append(
            f"{one.url:<{width}}  {one.state:<6}  {one.in_flight:>4} of {one.concurrency:>4} in flight  ok {one.ok:,}  "
            f"failed {one.failed:,}  retried {one.retried:,}  {one.tokens:,} tokens{waits}"
        )
    rest = ranked[SERVERS:]
    if rest:
        well = sum(one.state == "closed" and one.waiting_until is None for one in rest)
        flying, ok, failed = (sum(getattr(one, key) for one in rest) for key in ("in_flight", "ok", "failed"))
        lines.append(
            f"and {len(rest):,} more, {well:,} of them well: {flying:,} in flight  ok {ok:,}  failed {failed:,}"
        )
    return lines


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"
