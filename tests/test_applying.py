"""Curate with policies: what they refuse is in the history, what they relabel is kept and flagged."""

from collections import Counter
from pathlib import Path

import pytest

from cli.stages import REGISTRY
from distill.curate.history import HISTORY, Fate
from distill.curate.measure import MEASURES, Measure
from distill.errors import UserError
from distill.harvest import VERDICTS
from distill.jsonl import read_jsonl
from distill.ledger import Ledger, read_ledger
from distill.progress import Progress
from distill.recipe import load_recipe, run_step
from distill.records import Example, SamplerId, Verdict
from distill.runs import read_manifest

RECIPE = """
[problems.families.stories]
levels = [1, 2]
train = 20
test = 5
[harvest]
problems = "problems"
sampler = "oracle"
error_rate = 0.5
terse_rate = 0.5
samples = 4
max_tokens = 100
[curate]
traces = "harvest"
problems = "problems"
against = "problems"
decontaminate = "by-construction"
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders with a harvest of which half is wrong."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "r.toml").write_text(RECIPE)
    recipe = load_recipe(folder / "r.toml", REGISTRY)
    for name in ("problems", "harvest"):
        run_step(recipe, name, folder, Path("data"), Progress("quiet"))
    return folder


def curate(out: Path, *overrides: str) -> Path:
    recipe = load_recipe(out / "r.toml", REGISTRY, overrides)
    run_step(recipe, "curate", out, Path("data"), Progress("quiet"))
    return out / "curate"


def test_policies_choose_after_every_filter_and_the_history_says_why(out: Path) -> None:
    folder = curate(out, 'curate.policies=["shortest"]')
    examples, fates = read_jsonl(folder / "examples.jsonl", Example), read_jsonl(folder / HISTORY, Fate)
    assert max(Counter(row.problem_id for row in examples).values()) == 1
    last = Counter(fate.steps[-1][0] for fate in fates if not fate.kept)
    assert last.keys() == {"distinct", "shortest"}
    longer = [fate.steps[-1] for fate in fates if fate.steps[-1][2] == "longer"]
    assert longer
    assert all(float(value or 0) >= float(threshold or 0) for _, _, _, value, threshold, _ in longer)
    assert sum(fate.kept for fate in fates) == len(examples)


def test_verified_policies_and_keep_verified_take_the_same(out: Path) -> None:
    kept = (curate(out) / "examples.jsonl").read_bytes()
    assert (curate(out, 'curate.policies=["verified"]') / "examples.jsonl").read_bytes() == kept


def test_a_majority_label_is_flagged_and_counted_with_its_margin(out: Path) -> None:
    folder = curate(out, 'curate.policies=[{policy="majority", min_share=0.3}, "verified"]')
    verdicts = {row.trace_id: row.status for row in read_ledger(out / "harvest" / VERDICTS, Verdict)}
    fates = [fate for fate in read_jsonl(folder / HISTORY, Fate) if fate.kept]
    wrong = [fate for fate in fates if verdicts[fate.trace_id] == "wrong"]
    flagged = [fate for fate in fates if any(step[:3] == ("majority", "flagged", "relabeled") for step in fate.steps)]
    assert wrong  # of 40 problems some have two samples with the same wrong answer and none with gold
    assert wrong == flagged
    margins = read_manifest(folder).report.marks["relabeled"]
    assert len(margins) == len({fate.problem_id for fate in wrong})


def test_a_score_file_is_an_extra_signal(out: Path) -> None:
    verdicts = read_ledger(out / "harvest" / VERDICTS, Verdict)
    lines = [f'{{"trace_id": "{row.trace_id}", "score": {number % 2}}}' for number, row in enumerate(verdicts)]
    (out / "scores.jsonl").write_text("\n".join(lines))
    table = 'curate.policies=["verified", {policy="scored", at_least=0.5}]'
    folder = curate(out, table, f'curate.scores="{out}/scores.jsonl"')
    assert read_manifest(folder).report.marks["steps"]["scored"]["reasons"].keys() == {"low-score"}
    with pytest.raises(UserError, match="either both or neither"):
        curate(out, table)


def test_a_trace_with_two_scores_is_refused(out: Path) -> None:
    (out / "twice.jsonl").write_text('{"trace_id": "t", "score": 1}\n{"trace_id": "t", "score": 2}')
    with pytest.raises(UserError, match="trace t has two scores, 1 and 2"):
        curate(
            out, 'curate.policies=["verified", {policy="scored", at_least=0.5}]', f'curate.scores="{out}/twice.jsonl"'
        )


def test_divergence_reads_the_measures_it_names(out: Path) -> None:
    verdicts = list(read_ledger(out / "harvest" / VERDICTS, Verdict))
    surest = {verdict.trace_id: -0.1 - number % 4 for number, verdict in enumerate(verdicts)}
    for name in ("pupil", "sage"):
        with Ledger(out / name / MEASURES) as ledger:
            for trace_id, logprob in surest.items():
                steps = (logprob if name == "sage" else -3.0,)
                who = SamplerId(name=name, revision="1")
                ledger.append(Measure(trace_id=trace_id, model=who, tokens=5, loss=1.0, steps=steps, step_tokens=(5,)))
    pair = f'student="{out}/pupil", teacher="{out}/sage"'
    policies = f'curate.policies=["verified", {{policy="divergence", {pair}, at_least=0.2}}]'
    folder = curate(out, policies, f'curate.measures=["{out}/pupil", "{out}/sage"]')
    taken = [row.trace_id or "" for row in read_jsonl(folder / "examples.jsonl", Example)]
    assert taken
    assert {surest[trace_id] for trace_id in taken} <= {-0.1, -1.1}  # exp(-2.1) - exp(-3) is under 0.2
    with pytest.raises(UserError, match="must be in `measures`"):
        curate(out, policies)


def test_keep_and_policies_together_are_refused(out: Path) -> None:
    with pytest.raises(UserError, match="give one of the two"):
        curate(out, 'curate.policies=["all"]', 'curate.keep="all"')
