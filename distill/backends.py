"""Which way a teacher computes: two keys of every table that opens a model.

Plain strings, so that a recipe is read without torch; the model that is opened knows the names, says which one it
took and why, and refuses others. None leaves the choice to the model.
"""

from distill.recipe import StageConfig


class BackendsConfig(StageConfig):
    """Keys of `sft`, `rl`, `harvest` and `bench`."""

    attention_backend: str | None = None
    """How a teacher attends where heads are expanded: `sdpa` (its default) or `reference`."""
    experts_backend: str | None = None
    """How a teacher multiplies experts: `grouped_mm` (its default), `triton` or `reference`."""

    @property
    def backends(self) -> dict[str, str]:
        """What the table chooses, by the loader's keywords."""
        chosen = {"attention_backend": self.attention_backend, "experts_backend": self.experts_backend}
        return {key: name for key, name in chosen.items() if name is not None}
