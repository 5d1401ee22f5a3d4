"""Page: the document around the sections - one file, no remote asset, one hashed script.

The policy in its head lets the browser load nothing at all and run only the script whose
SHA-256 it names (Content Security Policy level 3), so text that slipped through escaping
would still be inert.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from evals.report.browser import browser
from evals.report.collect import Bench, Collected
from evals.report.drawing import text
from evals.report.making import data, descent, environment, speech, steps, training
from evals.report.scores import differences, headline, levels, sizes

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


@dataclass(frozen=True, slots=True)
class Section:
    """One section; left out when there is nothing inside."""

    name: str
    heading: str
    lead: str
    inside: str
    link: str
    """What the navigation calls it; empty when it has no link there."""


def page(found: Collected, title: str) -> str:
    """The whole document."""
    several = len(found.benches) > 1
    sections = [one for bench in found.benches for one in _examined(bench, several)] + _made(found)
    shown = [one for one in sections if one.inside]
    links = "".join(f'<li><a href="#{text(one.name)}">{text(one.link)}</a></li>' for one in shown if one.link)
    body = "\n".join(_markup(one) for one in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{text(title)}</h1><p class="soft">{text(_summary(found))}</p></header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def policy() -> str:
    """Nothing may be loaded; only this page's own script may run."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _markup(one: Section) -> str:
    head = f'<h2>{text(one.heading)}</h2><p class="soft">{text(one.lead)}</p>'
    return f'<section id="{text(one.name)}">{head}{one.inside}</section>'


def _examined(bench: Bench, several: bool) -> list[Section]:
    how = "All checkpoints answer the same held-out problems; the judge that filters training data scores them."
    if bench.recorded:
        how = "Recorded answers, judged by the judge that filters training data."
    paired = "Compared problem by problem, which a pair of intervals cannot do."
    parts = [
        ("scores", "Scores", how, headline(bench)),
        ("differences", "Differences", paired, differences(bench)),
        ("levels", "Families and levels", "Where the score comes from. Bars are 95% intervals.", levels(bench)),
        ("sizes", "Size", "How small a student can be.", sizes(bench)),
    ]
    if not several:
        return [Section(kind, heading, lead, inside, heading) for kind, heading, lead, inside in parts]
    return [
        Section(
            f"{kind}-{bench.name}", f"{bench.name}: {heading}", lead, inside, bench.name if kind == "scores" else ""
        )
        for kind, heading, lead, inside in parts
    ]


def _made(found: Collected) -> list[Section]:
    curves = "Curves as the runs wrote them; long ones are averaged over neighbors."
    last = "As their manifests say; time is that of the last attempt."
    parts = [
        ("training", "Training", curves, training(found)),
        ("traces", "Verdicts and lengths", "Every sample of every harvest and bench.", speech(found)),
        ("read", "Read the traces", "The first sample of each checkpoint on the same problem.", browser(found.benches)),
        ("data", "Data", "What was kept for training, and what was kept away from it.", data(found)),
        ("lineage", "Lineage", "What the scores rest on.", descent(found)),
        ("steps", "Steps", last, steps(found)),
        ("environment", "Environment", "Versions that can change a result.", environment(found)),
    ]
    return [Section(name, heading, lead, inside, heading) for name, heading, lead, inside in parts]


def _summary(found: Collected) -> str:
    manifests = [step.manifest for step in found.steps.values() if step.manifest is not None]
    seconds = sum(manifest.seconds for manifest in manifests)
    begun = min(manifest.started for manifest in manifests)
    seeds = ", ".join(str(seed) for seed in sorted({manifest.seed for manifest in manifests}))
    checkpoints = sum(len(bench.checkpoints) for bench in found.benches)
    return f"{checkpoints} checkpoints, {len(manifests)} steps, {seconds:,.0f} seconds, seed {seeds}, begun {begun}"
