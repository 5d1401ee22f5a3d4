"""Several processes of one command, started by torchrun: rank 0 runs it, the others compute for it."""

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from distill.errors import UserError

if TYPE_CHECKING:
    from distill.recipe import Recipe

KEYS = ("tensor_parallel", "expert_parallel", "data_parallel")
"""Keys of a table that ask for processes."""


def processes(config: Any) -> int:
    """How many processes a step's table asks for."""
    return max(getattr(part, key, 1) for part in _parts(config) for key in KEYS)


def _parts(config: Any) -> tuple[Any, ...]:
    """Tables that may ask for processes: a harvest's are those of its teachers."""
    return tuple(config.speakers.values()) if hasattr(config, "speakers") else (config,)


def expect_processes(step: str, config: Any) -> None:
    """Raise UserError unless as many processes run as the step's table asks for."""
    wanted, running = processes(config), int(os.environ.get("WORLD_SIZE", "1"))
    launched = is_rank()
    if getattr(config, "deepspeed", None) is not None and not launched:
        raise UserError(f"[{step}] deepspeed: needs its processes started: add --nproc {wanted}")
    if wanted == running:
        return
    asked = [key for key in KEYS if any(getattr(part, key, 1) > 1 for part in _parts(config))]
    named = asked or [key for key in KEYS if hasattr(config, key)]
    keys = ", ".join(named)
    start = f"torchrun --nproc-per-node {wanted} -m cli.main" if wanted > 1 else "distill"
    alone = f"start this step alone as `{start} STAGE --recipe R --step {step}`"
    if not keys:
        raise UserError(f"[{step}] its stage runs in one process, this run has {running}; {alone}, without torchrun")
    raise UserError(
        f"[{step}] {keys}: need{'' if ',' in keys else 's'} {wanted} processes, this run has {running}; {alone}"
    )


def is_rank() -> bool:
    """Whether torchrun, or `--nproc`, started this process."""
    return "RANK" in os.environ


def end(code: str | int | None) -> NoReturn:
    """End a rank's process when its work is done, without taking Python down around gloo's threads.

    One of them may ask for the interpreter while it is being taken down, is ended for it, and takes the process with
    it by abort: a run that had written everything was then reported as failed (1 of some 50 under load).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


@contextmanager
def joined(recipe: "Recipe", names: Sequence[str]) -> Iterator[bool]:
    """True where the steps are to be run. On other ranks they are over when this begins, and it is False.

    Raises UserError on rank 0 when a step wants another number of processes than torchrun started; other
    ranks exit with the same code and say nothing.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not is_rank():
        yield True
        return
    try:
        for name in names:
            expect_processes(name, recipe.steps[name].config)
    except UserError:
        if rank:
            sys.exit(2)
        raise
    from teacher.parallel.joins import is_parting, leave, start
    from teacher.parallel.lead import dismiss, follow

    start(rank, world)
    try:
        if rank:
            follow(rank)
            yield False
            return
        try:
            yield True
        finally:
            dismiss()
    except Exception as error:
        if not is_parting(error):
            raise
        if rank > 1:  # one of the first two is left to say it
            sys.exit(2)
        raise UserError(f"rank {rank}: another process of this run is gone; start the same command again") from error
    finally:
        leave()
