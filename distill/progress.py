"""Progress for anything longer than two seconds: a bar on a terminal, plain lines elsewhere.

Shows count, rate, time left and, when the caller reports tokens, tokens per second. What a caller has
to watch besides, servers say, stands below: under the bar, or as further plain lines.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""
SILENT_FOR = 2.0
"""Seconds before a plain task says anything at all."""

Watch = Callable[[], Sequence[str]]
"""Lines of plain text about this moment; asked from any thread."""


class Task:
    """One counted piece of work."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.tokens = 0
        self.facts = ""
        self.started = time.monotonic()

    def advance(self, count: int = 1, *, tokens: int = 0, facts: str = "") -> None:
        """Count work done. `facts` is a short free text shown behind the numbers."""
        self.done += count
        self.tokens += tokens
        self.facts = facts or self.facts

    def line(self) -> str:
        """`harvest  120/500 traces  40.1/s  1,530 tok/s  ETA 9s  yield 91%`"""
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        parts = [
            self.label,
            f"{self.done:,}/{self.total:,} {self.unit}" if self.total else f"{self.done:,} {self.unit}",
        ]
        parts.append(f"{rate:,.1f}/s")
        if self.tokens:
            parts.append(f"{self.tokens / seconds:,.0f} tok/s")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"ETA {(self.total - self.done) / rate:,.0f}s")
        if self.facts:
            parts.append(self.facts)
        return "  ".join(parts)


class _PlainTask(Task):
    def __init__(self, label: str, total: int | None, unit: str, watch: Watch | None) -> None:
        super().__init__(label, total, unit)
        self.watch = watch
        self.last = self.started + SILENT_FOR - PLAIN_EVERY

    def advance(self, count: int = 1, *, tokens: int = 0, facts: str = "") -> None:
        super().advance(count, tokens=tokens, facts=facts)
        if time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            lines = [self.line(), *(f"  {line}" for line in (self.watch() if self.watch else ()))]
            print("\n".join(lines), file=sys.stderr, flush=True)


class _Bars(RichProgress):
    """Bars, and a frame with what is watched."""

    watch: Watch | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.watch is not None and (lines := self.watch()):
            yield Panel(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), expand=False)


class _RichTask(Task):
    def __init__(self, label: str, total: int | None, unit: str, bars: RichProgress) -> None:
        super().__init__(label, total, unit)
        self.bars = bars
        self.id = bars.add_task(label, total=total, facts="")

    def advance(self, count: int = 1, *, tokens: int = 0, facts: str = "") -> None:
        super().advance(count, tokens=tokens, facts=facts)
        seconds = max(time.monotonic() - self.started, 1e-9)
        shown = f"{self.done / seconds:,.1f} {self.unit}/s"
        if self.tokens:
            shown += f"  {self.tokens / seconds:,.0f} tok/s"
        self.bars.update(self.id, completed=self.done, facts=f"{shown}  {self.facts}")


Mode = Literal["auto", "bars", "plain", "quiet"]
"""How progress is told; `auto` becomes bars on a terminal and plain lines elsewhere."""


class Progress:
    """Where a stage says how far it is. `quiet` says nothing but errors."""

    def __init__(self, mode: Mode = "auto") -> None:
        terminal = sys.stderr.isatty()
        self.mode: Mode = ("bars" if terminal else "plain") if mode == "auto" else mode
        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One plain line, unless quiet."""
        if self.mode != "quiet":
            self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def task(
        self, label: str, total: int | None = None, unit: str = "rows", watch: Watch | None = None
    ) -> Iterator[Task]:
        """Count one piece of work; closes with a plain summary line if it took over two seconds."""
        if self.mode == "bars":
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[facts]}"))
            bars = _Bars(*columns, *times, console=self.console, transient=True)
            bars.watch = watch
            with bars:
                task: Task = _RichTask(label, total, unit, bars)
                yield task
        elif self.mode == "plain":
            task = _PlainTask(label, total, unit, watch)
            yield task
        else:
            task = Task(label, total, unit)
            yield task
        if time.monotonic() - task.started > SILENT_FOR:
            self.say(task.line())
