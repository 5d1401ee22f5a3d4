"""`distill benchmarks`: which benchmarks and protocols there are, and all that is known of one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run_command import DataOption, data_folder

if TYPE_CHECKING:
    from distill.problems.benchmarks import Benchmark


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("benchmarks")(benchmarks)


def benchmarks(
    name: Annotated[str, typer.Argument(help="A benchmark or a protocol; without it, all are listed.")] = "",
    data: DataOption = None,
) -> None:
    """List benchmarks and protocols, or tell all of one.

    \b
      distill benchmarks
      distill benchmarks math500
      distill benchmarks lm-eval:gsm8k

    Of a benchmark: paper, license, source, the file it is read from, and published scores to hold ours against. Of a
    protocol: its hash, and every word and number it asks with. No benchmark text is part of the toolkit.
    """
    from distill.errors import UserError, did_you_mean
    from distill.problems.benchmarks import BENCHMARKS
    from evals.protocols import PROTOCOLS

    folder = data_folder(data)
    if not name:
        lines = _all(folder)
    elif name in BENCHMARKS:
        lines = _benchmark(name, BENCHMARKS[name], folder)
    elif name in PROTOCOLS:
        lines = _protocol(name)
    else:
        known = (*BENCHMARKS, *PROTOCOLS)
        raise UserError(f"{name!r}: no such benchmark or protocol{did_you_mean(name, known)}; see distill benchmarks")
    typer.echo("\n".join(lines))


def _all(folder: Path) -> list[str]:
    from distill.problems.benchmarks import BENCHMARKS
    from evals.protocols import PROTOCOLS

    lines = [f"benchmarks (files in {folder})"]
    for name, benchmark in BENCHMARKS.items():
        there = "there" if all(_place(folder, file) for file in benchmark.files.values()) else "missing"
        lines.append(f"  {name:<24}{there:<9}{benchmark.paper}")
    lines += ["", "protocols"]
    lines += [f"  {_hashed(name):<33}{protocol.source}" for name, protocol in PROTOCOLS.items()]
    return lines


def _benchmark(name: str, benchmark: "Benchmark", folder: Path) -> list[str]:
    from evals.protocols import PROTOCOLS

    lines = [name, f"  paper    {benchmark.paper}", f"  license  {benchmark.license}", f"  source   {benchmark.origin}"]
    for split, file in benchmark.files.items():
        lines.append(f"  {split:<8} {_place(folder, file) or f'{folder / file}: missing'}")
    fits = [known for known, protocol in PROTOCOLS.items() if not protocol.sources or name in protocol.sources]
    lines.append(f"  asked by {', '.join(fits)}")
    if benchmark.published:
        lines += ["", "published"]
    for score in benchmark.published:
        lines.append(f"  {score.score:>6.1%}  {score.model}: {score.how} ({score.source})")
    return lines


def _protocol(name: str) -> list[str]:
    from evals.protocols import PROTOCOLS

    said = PROTOCOLS[name].model_dump(mode="json", exclude={"name", "question", "readings", "shots"})
    lines = [_hashed(name), *(f"  {key:<12} {value}" for key, value in said.items())]
    lines += [f"  {kind:<12} {words!r}" for kind, words in PROTOCOLS[name].question.items()]
    if (shots := PROTOCOLS[name].shots) is not None:
        lines += ["", "worked examples", *(f"  {key:<12} {value!r}" for key, value in shots if value)]
    lines += ["", "readings, the first of which makes pass@k"]
    for reading in PROTOCOLS[name].readings:
        lines.append(f"  {reading.name}: " + ", ".join(f"{key} {value!r}" for key, value in reading if key != "name"))
    return lines


def _hashed(name: str) -> str:
    from evals.protocols import PROTOCOLS, protocol_name

    return protocol_name(name, PROTOCOLS[name], {}, [])


def _place(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)
