"""The two options that together run programs without walls, for every command that judges."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distill.sandbox import Sandbox

SandboxOption = Annotated[
    str,
    typer.Option(
        "--sandbox",
        envvar="DISTILL_SANDBOX",
        help="none: run models' programs without walls; takes --accept-unsandboxed too.",
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-unsandboxed",
        envvar="DISTILL_ACCEPT_UNSANDBOXED",
        help="Accept that --sandbox none lets programs do what you may; verdicts say so.",
    ),
]


def chosen(sandbox: str, *, accepted: bool) -> "Sandbox":
    """What the two options say together. Raises UserError on half of it."""
    from distill.sandbox import Sandbox

    return Sandbox(sandbox, accepted)
