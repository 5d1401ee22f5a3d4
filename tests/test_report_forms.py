"""What a report says beside its page: figures as JSON, words as Markdown, Every Eval Ever, the recipe once more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.stages import REGISTRY
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.recipe import SHIPPED, load_recipe, make_step, written
from distill.records import Item, Problem, Status
from distill.runs import MANIFEST, Manifest, read_manifest
from evals.report.again import again, toml
from evals.report.collect import Bench, collect
from evals.report.flips import flips_of
from evals.report.in_words import markdown
from evals.report.reliability import reliability
from evals.report.stage import ReportConfig, report
from evals.report.subjects import by_subject
from evals.report.summary import Summary, summarize
from evals.report.trade_offs import trade_offs
from evals.report.yields import yields
from tests.report_runs import ANSWERS, Runs, made_runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return made_runs(tmp_path)


def write(bench: Path, **keys: Any) -> Path:
    out = bench.parent / "report"
    out.mkdir()
    config = ReportConfig.model_validate({"bench": "bench"} | keys)
    report((bench,), (), out, config, tables=table_of, progress=Progress("quiet"))
    return out


def table_of(manifest: Manifest) -> Mapping[str, Any]:
    return manifest.config


def one_bench(path: Path) -> Bench:
    return collect([path], [], 4).benches[0]


def test_flips_count_each_direction_and_add_up(runs: Runs) -> None:
    by_pair = {(one.a, one.b): one for one in flips_of(one_bench(runs.bench(ANSWERS)))}
    quantized = by_pair["student-int8", "teacher"]
    assert (quantized.both, quantized.gained, quantized.lost, quantized.neither) == (8, (), ("p8", "p9"), 2)
    assert quantized.n == 12
    assert quantized.became["truncated", "wrong"] == 1


def test_equal_scores_may_flip(runs: Runs) -> None:
    (one,) = flips_of(one_bench(runs.bench({"a": ["correct", "wrong", "wrong"], "b": ["wrong", "correct", "wrong"]})))
    assert (one.gained, one.lost, one.rate) == (("p1",), ("p0",), pytest.approx(2 / 3))


def sampled(runs: Runs, right: list[list[bool]]) -> Path:
    """A bench of one checkpoint with several samples a problem."""
    bench = runs.bench({"teacher": ["correct"] * len(right)})
    rows = [
        Item(
            checkpoint="teacher",
            problem_id=f"p{place}",
            sample_index=index,
            status="correct" if good else "wrong",
            trace_id=f"{place}-{index}",
            task="stories",
            tokens=5,
        )
        for place, samples in enumerate(right)
        for index, good in enumerate(samples)
    ]
    write_jsonl(bench / "items.jsonl", rows)
    return bench


def test_reliability_falls_where_chance_rises(runs: Runs) -> None:
    html = reliability(one_bench(sampled(runs, [[True, False, True, False], [True] * 4])))
    # Problem one: 2 of 4 right, so one of two is right in 5 of 6 draws and both in 1 of 6; problem two always.
    assert "teacher, k 2: 91.7%" in html
    assert "teacher, k 2: 58.3%" in html
    assert html.count("teacher, k 4:") == 2


def test_one_sample_says_nothing_of_reliability(runs: Runs) -> None:
    assert reliability(one_bench(runs.bench(ANSWERS))) == ""


def test_subjects_count_problems_not_samples(runs: Runs) -> None:
    bench = sampled(runs, [[True, False], [True, True], [False, False]])
    problems = [
        Problem(id=f"p{i}", kind="answer", prompt="q", answer="1", source="math", split="test", subject=subject)
        for i, subject in enumerate(["Algebra", "Algebra", "Geometry"])
    ]
    write_jsonl(runs.root / "problems" / "problems.jsonl", problems)
    found = by_subject(one_bench(bench))
    assert (found["Algebra"]["teacher"].value, found["Algebra"]["teacher"].n) == (0.75, 2)
    assert (found["Geometry"]["teacher"].value, found["Geometry"]["teacher"].n) == (0.0, 1)


def test_a_quantized_copy_is_smaller_on_disk_and_equal_in_parameters(runs: Runs) -> None:
    (runs.root / "student" / "model.safetensors").write_bytes(b"x" * 4000)
    (runs.root / "student-int8" / "model.safetensors").write_bytes(b"x" * 1000)
    bench = one_bench(runs.bench(ANSWERS))
    assert bench.weights == {"student": 4000, "student-int8": 1000}
    assert bench.roles == {"teacher": "teacher", "student": "student", "student-int8": "quantized"}
    html = trade_offs(bench)
    assert "1kB bytes of weights" in html
    assert html.count("40k parameters active for one token") == 2


def test_a_harvest_has_a_cost_only_where_it_was_priced(runs: Runs) -> None:
    bench = runs.bench(ANSWERS)
    assert "cost" not in yields(collect([bench], [], 0))
    spent = {"by_sampler": {"teacher": {"prompt_tokens": 40}}, "seconds": 3.0, "cost": 0.5, "currency": "USD"}
    runs.seal("harvest", "harvest", [("problems", "problems"), ("model", "teacher")], marks={"spent": spent})
    html = yields(collect([bench], [], 0))
    assert "0.5 USD" in html
    assert "0.0% of 1" in html  # one trace, and that one wrong


def test_the_figures_are_those_of_the_page(runs: Runs) -> None:
    out = write(runs.bench(ANSWERS))
    summary = Summary.model_validate_json((out / "report.json").read_text(encoding="utf-8"))
    found = {row.checkpoint: row for row in summary.benches[0].scores if row.task == "all"}
    assert found["teacher"].value == pytest.approx(10 / 12)
    flips = {(one.a, one.b): (one.gained, one.lost) for one in summary.benches[0].flips}
    assert flips == {("student", "teacher"): (0, 2), ("student-int8", "teacher"): (0, 2)}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"{found['teacher'].low:.1%}" in page
    names = [step.name for step in summary.steps]
    assert names.index("problems") < names.index("harvest") < names.index("student") < names.index("bench")


def test_a_name_cannot_leave_its_cell_of_the_markdown(runs: Runs) -> None:
    bench = runs.bench({"a | b\n# c <img>": ["correct", "wrong"]})
    words = markdown(summarize(collect([bench], [], 0), "T", []))
    assert r"a \| b \# c \<img\>" in words
    assert "\n# c" not in words
    assert "50.0%" in words


SCHEMA_REQUIRED = {
    "": {"schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library"},
    "source_metadata": {"source_type", "source_organization_name", "evaluator_relationship"},
    "eval_library": {"name", "version"},
    "model_info": {"name", "id"},
}
RESULT_REQUIRED = {
    "": {"evaluation_name", "source_data", "metric_config", "score_details"},
    "source_data": {"dataset_name", "source_type"},
    "metric_config": {"lower_is_better", "min_score", "max_score"},
    "score_details": {"score"},
}
SAMPLE_REQUIRED = {"schema_version", "evaluation_id", "model_id", "evaluation_name", "sample_id", "interaction_type"}
SAMPLE_REQUIRED |= {"input", "output", "answer_attribution", "evaluation"}


def test_every_eval_ever_has_what_its_schema_requires(runs: Runs) -> None:
    out = write(runs.bench(ANSWERS), organization="me", relationship="first_party", instances=True)
    folder = out / "every_eval_ever" / "student"
    made = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    for name, keys in SCHEMA_REQUIRED.items():
        assert keys <= (made[name] if name else made).keys()
    for result in made["evaluation_results"]:
        for name, keys in RESULT_REQUIRED.items():
            assert keys <= (result[name] if name else result).keys()
        assert all(isinstance(value, str) for value in result["score_details"]["details"].values())
    (whole,) = [one for one in made["evaluation_results"] if one["evaluation_result_id"] == "all/pass@1"]
    assert whole["score_details"]["score"] == pytest.approx(8 / 12)
    interval = whole["score_details"]["uncertainty"]["confidence_interval"]
    assert interval["lower"] < 8 / 12 < interval["upper"]
    assert made["model_info"]["id"] == "me/student"
    lines = (folder / "bench_samples.jsonl").read_bytes().strip().split(b"\n")
    rows = [json.loads(line) for line in lines]
    assert len(rows) == made["detailed_evaluation_results"]["total_rows"] == 12
    assert all(row.keys() >= SAMPLE_REQUIRED and row["evaluation_id"] == made["evaluation_id"] for row in rows)
    assert sum(row["evaluation"]["is_correct"] for row in rows) == 8
    known = {one["evaluation_result_id"] for one in made["evaluation_results"]}
    assert {row["evaluation_result_id"] for row in rows} <= known


def test_texts_of_problems_are_shared_only_when_asked(runs: Runs) -> None:
    out = write(runs.bench(ANSWERS))
    assert not list(out.rglob("*_samples.jsonl"))
    assert "question" not in (out / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_written_back_from_its_tables_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, REGISTRY)
    for step in recipe.steps.values():
        table = step.config.model_dump(mode="json")
        lines = [f"stage = {toml(step.stage.name)}"]
        lines += [f"{key} = {toml(value)}" for key, value in written(step.stage, table).items() if value is not None]
        back = tmp_path / f"{step.name}.toml"
        back.write_text(f"[{step.name}]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        again_ = make_step(back, step.name, _tables(back)[step.name], REGISTRY)
        assert again_.config == step.config


def _tables(path: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_toml_survives_what_strings_may_hold() -> None:
    import tomllib

    value = {"a b": ['"', "\n\t\\", "é\x7f", 1, 2.5e-7, True, {"x": [], "y": {}}]}
    assert tomllib.loads(f"v = {toml(value)}")["v"] == value


def test_runs_of_two_seeds_are_two_recipes(runs: Runs) -> None:
    bench = runs.bench(ANSWERS)
    path = runs.root / "student" / MANIFEST
    path.write_text(read_manifest(path.parent).model_copy(update={"seed": 8}).model_dump_json())
    first, second = again(collect([bench], [], 0).steps, table_of)
    assert "seed = 7" in first.recipe
    assert "seed = 8" in second.recipe
    assert "[student]" in second.recipe
    assert "[student]" not in first.recipe
    assert second.commands.endswith("distill run --recipe ./recipe-2.toml --out runs/again-2")


def test_two_verdicts_of_one_problem_can_be_read_side_by_side(runs: Runs) -> None:
    bench = sampled(runs, [[True, False]])
    shown = collect([bench], [], 4, 2).benches[0].shown
    statuses: list[Status] = [answer.item.status for answer in shown[0].answers]
    assert statuses == ["correct", "wrong"]
