"""Report: write one HTML page that shows what a run achieved and how, and the same in three other forms.

Everything in it is read from run folders; nothing is measured here. The page opens from disk, loads nothing, and
treats all model text as hostile. Beside it: `report.md`, `report.json`, the scores in the schema of Every Eval Ever,
and the recipe that makes it all once more.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from distill.progress import Progress
from distill.recipe import StageConfig
from distill.runs import Report, write_durably
from evals.report.every_eval import Relationship, every_eval_ever

if TYPE_CHECKING:
    from evals.report.again import Tables
    from evals.report.collect import Bench, Collected

PAGE, MARKDOWN, FIGURES = "index.html", "report.md", "report.json"


class ReportConfig(StageConfig):
    """What the page is about."""

    inputs: ClassVar[tuple[str, ...]] = ("bench", "runs")
    bench: str | tuple[str, ...]
    """Bench steps. All that they were made from is found through their manifests."""
    runs: str | tuple[str, ...] = ()
    """Further steps to show, such as training runs no bench examined."""
    title: str = Field(default="Distillation report", min_length=1)
    """Heading of the page."""
    examples: int = Field(default=240, ge=0)
    """Problems of each bench shown with every checkpoint's trace, chosen to hold each verdict of each checkpoint."""
    samples: int = Field(default=1, gt=0)
    """Samples of a checkpoint shown for each of them."""
    organization: str = Field(default="unknown", min_length=1)
    """Who publishes the scores, for Every Eval Ever; also the first half of its model ids."""
    relationship: Relationship = "other"
    """Of that organization to the models, for Every Eval Ever."""
    instances: bool = False
    """Whether every answer is written for Every Eval Ever too, with the texts of the problems."""


def report(
    bench: Sequence[Path],
    runs: Sequence[Path],
    out: Path,
    config: ReportConfig,
    *,
    tables: "Tables",
    progress: Progress,
) -> Report:
    """Write `index.html` and its other forms into `out`. `tables` gives a manifest's table without its defaults."""
    from evals.report.again import again
    from evals.report.collect import collect
    from evals.report.in_words import markdown
    from evals.report.page import page
    from evals.report.summary import summarize

    with progress.task("report", total=2, unit="parts") as task:
        found = collect(bench, runs, config.examples, config.samples)
        task.advance(facts="read")
        made = again(found.steps, tables)
        html = page(found, config.title, made)
        summary = summarize(found, config.title, made)
        write_durably(out / PAGE, html)
        write_durably(out / FIGURES, summary.model_dump_json(indent=2) + "\n")
        write_durably(out / MARKDOWN, markdown(summary))
        for one in made:
            write_durably(out / one.file, one.recipe)
        files = sum(_shared(one, found, out, config) for one in found.benches)
        task.advance(facts="written")
    size, problems = len(html.encode()), sum(len(one.shown) for one in found.benches)
    line = (
        f"{PAGE}: {size / 1e6:.2f} MB, {len(found.steps)} steps, {problems} problems with traces; open it in a browser"
    )
    beside = f"{MARKDOWN}, {FIGURES}, {', '.join(one.file for one in made)}, every_eval_ever/ ({files} files)"
    return Report(
        counts={"bytes": size, "steps": len(found.steps), "problems_shown": problems},
        lines=(line, f"beside it: {beside}"),
    )


def _shared(bench: "Bench", found: "Collected", out: Path, config: ReportConfig) -> int:
    (path,) = [path for path, step in found.steps.items() if step.manifest is bench.manifest]
    inputs = found.steps[path].inputs
    recorded = tuple(folder for field, folder in inputs if field == "traces")
    ledgers: Mapping[str, tuple[Path, ...]] = {name: recorded or (path / name,) for name in bench.checkpoints}
    return every_eval_ever(
        bench,
        out,
        organization=config.organization,
        relationship=config.relationship,
        ledgers=ledgers if config.instances else {},
        problems=found.problems(path) if config.instances else {},
    )
