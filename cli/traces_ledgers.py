"""`distill traces ls|show|stats|verify|export`: what is stored, looked at without changing it."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run_command import JsonOption, QuietOption

if TYPE_CHECKING:
    from distill.progress import Progress

RUNS = Path("runs")
DAMAGED = 1
"""Exit code of `verify` when it found damage, as of `cmp` and `sha256sum -c`; 2 is for what could not be looked at."""

FolderArgument = Annotated[Path, typer.Argument(help="Run folder with traces/ and verdicts/.")]
ProblemsOption = Annotated[
    Path | None, typer.Option("--problems", help="Run folder or file of the problems; default: as the manifest says.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    for name, command in (("ls", ls), ("show", show), ("stats", stats), ("verify", verify), ("export", export)):
        app.command(name)(command)


def ls(
    folder: Annotated[Path, typer.Argument(help="Where to look; everything below it.")] = RUNS,
    json_: JsonOption = False,
) -> None:
    """List run folders with traces, how many and their verdicts.

    \b
      distill traces ls
      distill traces ls runs/mini

    With who spoke, the size and when a shard was last written. complete: the step is finished; open: its last shard
    may still grow; sealed: neither. Folders are counted through an index kept beside the shards (.index.sqlite), read
    anew only where a shard changed; delete it whenever you like.
    """
    from distill.errors import UserError
    from distill.traces.stats import list_folders, mix

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that holds the run folders")
    rows = list(list_folders(folder, _progress(json_)))
    if json_:
        for row in rows:
            typer.echo(row.to_json())
        return
    if not rows:
        typer.echo(f"no traces in or under {folder}")
    width = max((len(row.folder) for row in rows), default=0)
    for row in rows:
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.changed))
        typer.echo(
            f"{row.folder:<{width}}  {row.state:<8}  {row.traces:>10,} traces  {_size(row.bytes):>9}  {written}  "
            f"{', '.join(map(_printable, row.samplers))}  {mix(row.verdicts, row.traces)}"
            + (f"  {row.faults:,} faults: distill traces verify {row.folder}" if row.faults else "")
        )


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Of a trace, its beginning, or of a problem.")],
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Run folders, or folders of them; default runs.")
    ] = None,
    problems: ProblemsOption = None,
    json_: JsonOption = False,
) -> None:
    """Print one trace with its problem and verdicts.

    \b
      distill traces show 00cfb40860e72dfe
      distill traces show 00cf runs/mini/harvest
      distill traces show stories-3-17 runs/mini

    A problem's id lists its traces. A trace is found by the index, so nothing else is read; its checksum is checked.
    Control characters a model wrote are shown as pictures. Piped, the text is plain; NO_COLOR is heeded.
    """
    from rich.console import Console

    from distill.traces.show import Shown, in_full, in_lines, look_up

    found = look_up(name, _with_traces(folders or [RUNS]), problems, _progress(json_))
    if json_ and isinstance(found, Shown):
        typer.echo(found.to_json())
    elif json_ and not isinstance(found, Shown):
        typer.echo(json.dumps({"folder": str(found.folder), "traces": [row.id for row in found.found]}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in in_full(found) if isinstance(found, Shown) else in_lines(found):
            console.print(line)


def stats(folder: FolderArgument, problems: ProblemsOption = None, json_: JsonOption = False) -> None:
    """Count verdicts, yield by family and level, lengths, tokens.

    \b
      distill traces stats runs/mini/harvest
      distill traces stats runs/mini/harvest --json

    Where two verdicts name one trace the later counts. Families and levels come from the problems the manifest names.
    """
    from distill.traces import stats as counting

    told = counting.stats(folder, problems=problems, progress=_progress(json_))
    if json_:
        typer.echo(told.to_json())
    else:
        typer.echo("\n".join(_printable(line) for line in told.lines))


def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Run folders, or folders of them; default runs.")
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Check every byte of every shard; name faults as file:line.

    \b
      distill traces verify
      distill traces verify runs/mini/harvest

    Checked: crc32 and keys of each line, the SHA-256 of each sealed shard, missing shards, torn tails, ids that stand
    twice, verdicts on no trace, traces without a verdict. What a kill leaves in an unfinished run is told as a note.
    Exit code 0: whole (notes allowed); 1: damaged; 2: could not be checked. No index is trusted.
    """
    from distill.traces.verify import Checked
    from distill.traces.verify import verify as check

    damage = 0
    for folder in _with_traces(folders or [RUNS]):
        checked = Checked()
        for fault in check(folder, checked, _progress(json_ or quiet)):
            if json_:
                line = {"file": str(fault.path), "line": fault.line, "why": fault.why, "damage": fault.damage}
                typer.echo(json.dumps(line))
            else:
                typer.echo(_printable(f"{fault.where}: {'' if fault.damage else 'note: '}{fault.why}"))
        damage += checked.damage
        if not (quiet or json_):
            typer.echo(f"{folder}: {checked.line}")
    if damage:
        raise typer.Exit(DAMAGED)


def export(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", help="NAME.parquet for one file; any other name for a folder.")],
    verdict: Annotated[
        list[str] | None, typer.Option("--verdict", help="Only traces with this verdict; may be repeated.")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Token ids and log-probabilities too.")] = False,
    problems: ProblemsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write traces as parquet, or as a folder `datasets` opens.

    \b
      distill traces export runs/mini/harvest --out traces.parquet
      distill traces export runs/mini/harvest --out mini-traces --verdict correct
      python -c 'import datasets; print(datasets.load_dataset("mini-traces"))'

    With verdicts and problems, and of a folder a dataset card. One row a trace, one type a column, in the order of the
    ledger; any size streams. Every mistake is in it: for examples to train on, see distill curate.
    """
    from distill.traces.export import export as write

    rows = write(folder, out, verdicts=verdict or (), tokens=tokens, problems=problems, progress=_progress(quiet))
    if not quiet:
        typer.echo(f"{out}: {rows:,} traces")


def _with_traces(folders: list[Path]) -> list[Path]:
    """Run folders themselves, and all those below the others."""
    from distill.errors import UserError
    from distill.traces.stats import ledgers_under

    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected a run folder, or one that holds run folders")
        below = ledgers_under(folder)
        if not below:
            raise UserError(f"{folder}: no traces in or under it; expected run folders of harvest, import or bench")
        found += below
    return found


def _progress(quiet: bool) -> "Progress":
    from distill.progress import Progress

    return Progress("quiet" if quiet else "auto")


def _printable(text: str) -> str:
    from distill.traces.show import plain

    return plain(text)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
