"""outcome.json: what became of a training run's weights after its last step.

Written before the checkpoint, so that a run killed behind it reports the same.
"""

from pathlib import Path

from distill.records import Record
from distill.runs import write_durably

OUTCOME = "outcome.json"


class Kept(Record):
    """The state whose weights the checkpoint got instead of the last."""

    step: int
    metric: str
    value: float

    def line(self, steps: int) -> str:
        """For a report."""
        return (
            f"weights of step {self.step:,} of {steps:,}: {self.metric} {self.value:.4f}, the best of the states saved"
        )


class Merged(Record):
    """Adapters scored on the base they were trained on, and again as part of the checkpoint."""

    as_trained: float
    """Mean loss over the rows' loss tokens, float32."""
    merged: float
    rows: int
    held_out: bool
    """Whether these rows were kept out of training; else they are the first trained on."""
    base: str
    merged_into: str

    @property
    def counts(self) -> dict[str, float]:
        """For a report's numbers."""
        return {"loss_as_trained": round(self.as_trained, 6), "loss_merged": round(self.merged, 6)}

    @property
    def line(self) -> str:
        """For a report."""
        rows = "held-out rows" if self.held_out else "rows trained on (set held_out for others)"
        return (
            f"merged into the {self.merged_into} weights: loss {self.as_trained:.4f} on the {self.base} base, "
            f"{self.merged:.4f} merged ({self.merged - self.as_trained:+.4f}), {self.rows} {rows}"
        )


class Outcome(Record):
    """Both, where there are any."""

    kept: Kept | None = None
    merged: Merged | None = None


def write_outcome(out: Path, outcome: Outcome) -> None:
    """Into the run folder; nothing where there is nothing to say."""
    if outcome != Outcome():
        write_durably(out / OUTCOME, outcome.to_json())


def read_outcome(out: Path) -> Outcome:
    """What `write_outcome` wrote."""
    path = out / OUTCOME
    return Outcome.model_validate_json(path.read_bytes()) if path.is_file() else Outcome()
