"""Sources: where the traces of a curate step came from, counted while they are read."""

from collections import Counter
from dataclasses import dataclass, field

from distill.records import Params, SamplerId


@dataclass(slots=True)
class Sources:
    """Counts of every stored trace, whatever becomes of it."""

    samplers: Counter[str] = field(default_factory=Counter)
    """By name and revision."""
    params: Counter[Params | None] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)

    def count(self, sampler: SamplerId, params: Params | None, status: str) -> None:
        """One stored trace."""
        self.samplers[f"{sampler.name} {sampler.revision}"] += 1
        self.params[params] += 1
        self.verdicts[status] += 1

    def asked(self) -> dict[str, int]:
        """Ways of asking, as JSON, and how many traces came of each."""
        return {"not recorded" if params is None else params.to_json(): count for params, count in self.params.items()}
