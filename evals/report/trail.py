"""Trail: from a score back to the problems, step by step, in words.

The graph beside it shows the same for all scores at once; here each stands alone, with the fingerprints that
prove it. A step that was told already is named and not told again.
"""

from collections.abc import Mapping
from pathlib import Path

from evals.report.collect import Bench, Step
from evals.report.drawing import text
from evals.scoring import ALL, PASS_1


def trails(bench: Bench, steps: Mapping[Path, Step]) -> str:
    """One fold a checkpoint."""
    (path,) = [path for path, step in steps.items() if step.manifest is bench.manifest]
    made = []
    for row in bench.scores:
        if row.task != ALL or row.metric != PASS_1:
            continue
        head = (
            f"{row.checkpoint}: {row.value:.1%} [{row.low:.1%}, {row.high:.1%}] over {row.n:,} problems, "
            f"{bench.name}, protocol {row.protocol}"
        )
        named = [
            folder for field, folder in steps[path].inputs if field == "checkpoints" and folder.name == row.checkpoint
        ]
        begin = named or [folder for field, folder in steps[path].inputs if field != "checkpoints"]
        told: set[Path] = set()
        inside = "".join(_step("", folder, steps, told) for folder in begin)
        made.append(
            f'<details class="more trail"><summary>{text(head)}</summary>'
            f"<p>Checkpoint fingerprint <code>{text(row.fingerprint)}</code></p><ul>{inside}</ul></details>"
        )
    return "".join(made)


def _step(field: str, path: Path, steps: Mapping[Path, Step], told: set[Path]) -> str:
    step = steps[path]
    said = f'<span class="soft">{text(field)}</span> <a href="#{text(f"step-{step.name}")}">{text(step.name)}</a>'
    if step.manifest is None:
        return f"<li>{said}, a file, or not here</li>"
    said += f", {text(step.manifest.stage)} <code>{text(step.manifest.content)}</code>"
    if path in told:
        return f"<li>{said}, as above</li>"
    told.add(path)
    counts = ", ".join(f"{value:,} {name}" for name, value in list(step.manifest.report.counts.items())[:2])
    inputs = dict.fromkeys(step.inputs)
    inside = "".join(_step(name, folder, steps, told) for name, folder in inputs)
    return f"<li>{said}{text(f' ({counts})' if counts else '')}{f'<ul>{inside}</ul>' if inside else ''}</li>"
