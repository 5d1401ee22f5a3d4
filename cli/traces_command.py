"""`distill traces`: what is stored, and traces that come from elsewhere, without writing a recipe."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import traces_ledgers
from cli.run_command import DataOption, JsonOption, QuietOption, data_folder, print_manifest
from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from distill.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="List, show, count, verify, export or import traces.")


def register(parent: typer.Typer) -> None:
    """Add the group to the application."""
    traces_ledgers.register(app)
    parent.add_typer(app, name="traces")


@app.command("import")
def import_(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="JSONL (.gz), JSON arrays, parquet, folders of them, or data files."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Instead of files: a folder `datasets` reads, or a hub id.")
    ] = None,
    dataset_config: Annotated[str | None, typer.Option("--dataset-config", help="Its configuration.")] = None,
    dataset_split: Annotated[str | None, typer.Option("--dataset-split", help="Its split; default train.")] = None,
    dataset_revision: Annotated[str | None, typer.Option("--dataset-revision", help="Commit of a hub id.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Name of the set; default: from FILE.")] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the set, as its publisher gives it.")
    ] = "unknown",
    url: Annotated[str | None, typer.Option("--url", help="Where the set is published.")] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Who wrote the traces, if no column says.")] = None,
    terms: Annotated[
        str | None, typer.Option("--terms", help="allows-training, forbids-training or unknown; default: suggested.")
    ] = None,
    layout: Annotated[str, typer.Option("--layout", help="Layout of the columns; auto finds out.")] = "auto",
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="WHAT=COLUMN, such as prompt=question; may be repeated.")
    ] = None,
    problems: Annotated[
        str | None, typer.Option("--problems", help="Run folder or file with the problems, for rows without them.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train or test: split of problems in the set.")] = "train",
    think_open: Annotated[
        bool, typer.Option("--think-open", help="The texts begin inside a think block the prompt opened.")
    ] = False,
    turns: Annotated[str, typer.Option("--turns", help="one, or first: the first exchange of a conversation.")] = "one",
    bad_rows: Annotated[
        str, typer.Option("--bad-rows", help="refuse: stop before judging; skip: take the others. Both list them.")
    ] = "refuse",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows only.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/imports/SOURCE.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show the mapping and a few rows, write nothing.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Traces a preview shows.")] = 3,
    data: DataOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
) -> None:
    """Make a run folder of foreign traces, judged where gold is known.

    Look first, then import; the folder is one `curate` and `bench` read like a harvest:

    \b
      distill traces import set.jsonl --teacher DeepSeek-R1 --preview
      distill traces import set.jsonl --teacher DeepSeek-R1 --licence MIT --out runs/set

    Known by their columns: OpenThoughts (1 to 3), OpenR1-Math, s1K, LIMO, ShareGPT, messages. Anything else:

    \b
      --map prompt=question --map text=response --map gold=answer --map teacher=model

    WHAT is prompt, turns, text, reasoning, answer, gold, tests, solution, problem_id, teacher, label, finish, complete,
    level, subject, temperature, top_p or max_tokens. Dots reach inside (gold=extra.answer), WHAT= leaves one out.

    Traces whose problem has a gold answer are judged, the others are `undecided`. Bad rows are listed as file:line.
    Stopped or killed, the same command goes on. Terms that do not allow training are kept with the traces, and curate
    refuses them; a suggestion for known teachers is no legal advice (docs/import.md).
    """
    from distill.recipe import run_step

    source = source or _named(files, dataset)
    table: dict[str, Any] = {
        "files": [_place(file) for file in files or ()],
        "dataset": dataset,
        "source": source,
        "licence": licence,
        "url": url,
        "teacher": teacher,
        "terms": terms,
        "layout": layout,
        "map": _mapped(map_ or []),
        "problems": None if problems is None else _path(problems),
        "split": split,
        "think_open": think_open,
        "turns": turns,
        "bad_rows": bad_rows,
        "limit": limit,
    }
    given = {"dataset_config": dataset_config, "dataset_split": dataset_split, "dataset_revision": dataset_revision}
    table |= {key: value for key, value in given.items() if value is not None}
    place = out if out is not None else Path("runs") / "imports" / source.replace("/", "-")
    recipe = _recipe(place.name, table)
    if preview:
        _preview(recipe.steps[place.name].config, data_folder(data), problems, rows)
        return
    from distill.progress import Progress

    kept = chosen(sandbox, accepted=accept)
    progress = Progress("quiet" if quiet or json_ else "auto")
    manifest, ran = run_step(recipe, place.name, place.parent, data_folder(data), progress, kept)
    if json_:
        typer.echo(json.dumps({**manifest.model_dump(mode="json"), "folder": str(place), "ran": ran}))
    elif not quiet:
        typer.echo(f"[{place}]")
        print_manifest(manifest, ran)


def _recipe(step: str, table: dict[str, Any]) -> "Recipe":
    """A recipe of this one step, checked like any other."""
    from cli.libraries import prepare

    prepare()
    from cli.stages import REGISTRY
    from distill.recipe import Recipe, make_step

    path = Path("distill traces import")
    known = {key: value for key, value in table.items() if value is not None}
    return Recipe(
        "import", path, "import", "", 0, {step: make_step(path, step, {"stage": "import", **known}, REGISTRY)}
    )


def _preview(config: Any, data: Path, problems: str | None, rows: int) -> None:
    from rich.console import Console

    from distill.imports.preview import preview
    from distill.imports.stage import open_walk

    console = Console(highlight=False, soft_wrap=True)
    for line in preview(open_walk(config, data, None if problems is None else Path(problems)), rows):
        console.print(line)


def _mapped(pairs: list[str]) -> dict[str, str]:
    from distill.errors import UserError, did_you_mean
    from distill.imports.layouts import MEANINGS

    mapped: dict[str, str] = {}
    for pair in pairs:
        what, equals, column = pair.partition("=")
        if not equals or what not in MEANINGS:
            raise UserError(
                f"--map {pair}: expected WHAT=COLUMN{did_you_mean(what, MEANINGS)}; "
                f"WHAT is one of {', '.join(MEANINGS)}"
            )
        mapped[what] = column
    return mapped


def _named(files: list[str] | None, dataset: str | None) -> str:
    """A set is called like its first file, or like its dataset."""
    from distill.errors import UserError

    if not files and dataset is None:
        raise UserError("traces import: name files, or a --dataset")
    name = Path(files[0] if files else str(dataset)).name
    for ending in (".gz", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending)
    return name


def _place(file: str) -> str:
    """A file that is there is a path; any other name stands in the data directory."""
    return _path(file) if Path(file).exists() else file


def _path(name: str) -> str:
    return name if "/" in name else f"./{name}"
