"""Report: write one HTML page that shows what a run achieved and how.

Everything on it is read from run folders; nothing is measured here. The page opens from
disk, loads nothing, and treats all model text as hostile.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from distill.progress import Progress
from distill.recipe import StageConfig
from distill.runs import Report, write_durably

PAGE = "index.html"


class ReportConfig(StageConfig):
    """What the page is about."""

    inputs: ClassVar[tuple[str, ...]] = ("bench", "runs")
    bench: str | tuple[str, ...]
    """Bench steps. All that they were made from is found through their manifests."""
    runs: str | tuple[str, ...] = ()
    """Further steps to show, such as training runs no bench examined."""
    title: str = Field(default="Distillation report", min_length=1)
    """Heading of the page."""
    examples: int = Field(default=48, ge=0)
    """Problems shown with every checkpoint's trace, chosen to hold each verdict of each checkpoint."""


def report(
    bench: Sequence[Path], runs: Sequence[Path], out: Path, config: ReportConfig, *, progress: Progress
) -> Report:
    """Write `out/index.html`."""
    from evals.report.collect import collect
    from evals.report.page import page

    with progress.task("report", total=2, unit="parts") as task:
        found = collect(bench, runs, config.examples)
        task.advance(facts="read")
        html = page(found, config.title)
        write_durably(out / PAGE, html)
        task.advance(facts="written")
    size, problems = len(html.encode()), sum(len(one.shown) for one in found.benches)
    line = (
        f"{PAGE}: {size / 1e6:.2f} MB, {len(found.steps)} steps, {problems} problems with traces; open it in a browser"
    )
    return Report(counts={"bytes": size, "steps": len(found.steps), "problems_shown": problems}, lines=(line,))
