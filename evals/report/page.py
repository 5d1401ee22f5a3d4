"""Page: the document around the sections - one file, no remote asset, one hashed script.

The policy in its head lets the browser load nothing at all and use only the style and the script whose SHA-256 it
names (Content Security Policy level 3; Trusted Types), so text that slipped through escaping would still be inert.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.report.abstract import abstract
from evals.report.again import Again, commands
from evals.report.browser import browser
from evals.report.collect import Bench, Collected
from evals.report.composition import composition
from evals.report.drawing import text
from evals.report.flips import flips
from evals.report.making import descent, environment, speech, steps, training
from evals.report.reliability import reliability
from evals.report.scores import differences, headline, levels
from evals.report.subjects import subjects
from evals.report.trade_offs import trade_offs
from evals.report.yields import yields

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


@dataclass(frozen=True, slots=True)
class Section:
    """One section; left out when there is nothing inside."""

    name: str
    heading: str
    lead: str
    inside: str
    link: str
    """What the navigation calls it, a word where there is one; empty when it has no link there."""


def page(found: Collected, title: str, made: Sequence[Again]) -> str:
    """The whole document."""
    several = len(found.benches) > 1
    sections = [one for bench in found.benches for one in _examined(bench, several)] + _made(found, made)
    shown = [one for one in sections if one.inside]
    links = "".join(f'<li><a href="#{text(one.name)}">{text(one.link)}</a></li>' for one in shown if one.link)
    body = "\n".join(_markup(one) for one in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the content</a>\n'
        f'<header><h1>{text(title)}</h1><p class="byline">{text(_summary(found))}</p>{abstract(found)}</header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main id="main">\n{body}\n</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def policy() -> str:
    """Nothing may be loaded; only this page's own style and script are used, no text becomes markup at run time."""
    return (
        f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; script-src 'sha256-{_digest(SCRIPT)}'; "
        "require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'"
    )


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _markup(one: Section) -> str:
    head = f'<h2>{text(one.heading)}</h2><p class="soft">{text(one.lead)}</p>'
    return f'<section id="{text(one.name)}">{head}{one.inside}</section>'


def _examined(bench: Bench, several: bool) -> list[Section]:
    how = "All checkpoints answer the same held-out problems; the judge that filters training data scores them."
    if bench.recorded:
        how = "Recorded answers, judged by the judge that filters training data."
    paired = "Compared problem by problem, which a pair of intervals cannot do."
    parts = [
        ("scores", "Scores", "Scores", how, headline(bench)),
        ("differences", "Differences", "Differences", paired, differences(bench)),
        ("flips", "Flips", "Flips", "The same score may rest on different problems.", flips(bench)),
        (
            "levels",
            "Families and levels",
            "Levels",
            "Where the score comes from. Bars are 95% intervals.",
            levels(bench),
        ),
        ("subjects", "Subjects", "Subjects", "By the subject each problem names.", subjects(bench)),
        ("reliability", "Reliability", "Reliability", "What one more attempt is worth.", reliability(bench)),
        ("prices", "Accuracy and its price", "Price", "Up is better, left is cheaper.", trade_offs(bench)),
    ]
    if not several:
        return [Section(kind, heading, lead, inside, link) for kind, heading, link, lead, inside in parts]
    return [
        Section(
            f"{kind}-{bench.name}", f"{bench.name}: {heading}", lead, inside, bench.name if kind == "scores" else ""
        )
        for kind, heading, _, lead, inside in parts
    ]


def _made(found: Collected, made: Sequence[Again]) -> list[Section]:
    curves = "Curves as the runs wrote them; long ones are averaged over neighbors."
    last = "As their manifests say; time is that of the last attempt."
    once_more = "Written back from the manifests; the recipe stands beside this page."
    read = "What each checkpoint said to the same problem, side by side."
    parts = [
        ("training", "Training", "Training", curves, training(found)),
        ("yields", "Harvest", "Harvest", "What sampling brought, and what it took.", yields(found)),
        ("traces", "Verdicts and lengths", "Verdicts", "Every sample of every harvest and bench.", speech(found)),
        (
            "data",
            "Data",
            "Data",
            "What was kept for training, and what was kept away from it.",
            composition(found.sets),
        ),
        ("read", "Read the traces", "Traces", read, browser(found.benches)),
        ("lineage", "Lineage", "Lineage", "What the scores rest on.", descent(found)),
        ("steps", "Steps", "Steps", last, steps(found)),
        ("environment", "Environment", "Environment", "Versions that can change a result.", environment(found)),
        ("commands", "Once more", "Once more", once_more, commands(made)),
    ]
    return [Section(name, heading, lead, inside, link) for name, heading, link, lead, inside in parts]


def _summary(found: Collected) -> str:
    manifests = [step.manifest for step in found.steps.values() if step.manifest is not None]
    seconds = sum(manifest.seconds for manifest in manifests)
    begun = min(manifest.started for manifest in manifests)
    seeds = ", ".join(str(seed) for seed in sorted({manifest.seed for manifest in manifests}))
    checkpoints = sum(len(bench.checkpoints) for bench in found.benches)
    return f"{checkpoints} checkpoints, {len(manifests)} steps, {seconds:,.0f} seconds, seed {seeds}, begun {begun}"
