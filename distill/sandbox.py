"""Sandbox: the two words it takes to run programs of models without walls.

Walls themselves are `distill/judge/sandbox/`; this is what commands, stages and the judge
hand on. Running without is for containers that can be lost: every verdict is stamped.
"""

from dataclasses import dataclass

from distill.errors import UserError


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How programs are kept in: behind walls, or `none` when that is asked for and accepted as well."""

    name: str = ""
    """Empty: the walls; `none`: without."""
    accept_unsandboxed: bool = False

    @property
    def walled(self) -> bool:
        """Whether there are walls."""
        return not self.name

    def __post_init__(self) -> None:
        """Raises UserError on half of it."""
        if self.name not in ("", "none"):
            raise UserError(f"--sandbox {self.name}: expected none, or not to be given (also DISTILL_SANDBOX)")
        if self.name and not self.accept_unsandboxed:
            raise UserError(
                "--sandbox none: programs would run unsandboxed; give --accept-unsandboxed as well "
                "(or DISTILL_ACCEPT_UNSANDBOXED=1)"
            )
        if self.accept_unsandboxed and not self.name:
            raise UserError(
                "--accept-unsandboxed: programs run sandboxed; give --sandbox none as well (or DISTILL_SANDBOX=none)"
            )


WALLED = Sandbox()
