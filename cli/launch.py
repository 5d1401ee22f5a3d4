"""`--nproc N`: the command starts itself N times, as `torchrun --standalone` would.

For one machine. Over several, torchrun itself starts the command on each of them (docs/scale.md): processes that find
themselves started, by whatever, start nothing.
"""

import sys
from typing import TYPE_CHECKING, Any

from cli.ranks import is_rank

if TYPE_CHECKING:
    from distill.recipe import Recipe


def overrides(recipe: "Recipe", step: str, nproc: int | None, deepspeed: str | None) -> list[str]:
    """What the two flags say in the words of `--set`; keys the table has already are left as they are."""
    config: Any = recipe.steps[step].config
    found = []
    if nproc is not None and max(getattr(config, "expert_parallel", 1), getattr(config, "data_parallel", 1)) == 1:
        found.append(f"{step}.data_parallel={nproc}")
    if deepspeed is not None:
        found.append(f'{step}.deepspeed="{deepspeed}"')
    return found


def launch(nproc: int | None) -> None:
    """Start this very command on `nproc` processes and exit with its code; return where that is done already."""
    if nproc is None or is_rank():
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        max_restarts=0,  # what failed once has said why; a second attempt would say it again, or wait for nobody
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="distill",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "cli.main", *sys.argv[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.exit(2 if failure.exitcode == 2 else 1)
    sys.exit(0)
