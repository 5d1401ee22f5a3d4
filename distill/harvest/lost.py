"""Lost: teachers that are gone, and whether a harvest ends without what they owe.

The others are heard to the end first. Then the step stops unfinished, and the same command asks for the
missing samples and no others; or it finishes with what is there, and says so.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from distill.errors import LostError
from distill.progress import Progress

OnLost = Literal["stop", "finish"]


class Lost:
    """Those of one attempt."""

    def __init__(self, on_lost: OnLost = "stop") -> None:
        self.on_lost = on_lost
        self.errors: dict[str, LostError] = {}
        """By teacher."""
        self.owed: Counter[str] = Counter()
        """Samples they owe, all rounds together."""

    def add(self, name: str, error: LostError, progress: Progress, *, alone: bool) -> None:
        """One is gone."""
        self.errors[name] = error
        if not alone:
            progress.say(f"{_called(name, error)}; the other teachers go on")

    def stop(self, owed: Mapping[str, int]) -> None:
        """Raise LostError where samples are `owed` by teachers that are gone, unless that is no reason to stop."""
        self.owed.update({name: owed[name] for name in self.errors if owed.get(name)})
        why = self.why(owed)
        if why and self.on_lost == "stop":
            raise LostError(
                f'{why}; the same command asks for what is missing, or ends with what is there when on_lost = "finish"'
            )

    def why(self, owed: Mapping[str, int]) -> str:
        """One line; empty where nobody is gone who owes anything."""
        told = [
            f"{_called(name, error)} ({owed[name]:,} samples missing)"
            for name, error in self.errors.items()
            if owed.get(name)
        ]
        return "; ".join(told)


def _called(name: str, error: LostError) -> str:
    return f"teacher {name}: {error}" if name else str(error)
