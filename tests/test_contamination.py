from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.records import fingerprint
from distill.runs import InputRef, Manifest, Report
from evals.contamination import contamination

MARK = {"against": {"stories": 90, "gsm8k": 1319}, "method": "13-gram", "removed": 3, "flagged": 0}


def step(folder: Path, stage: str, marks: Mapping[str, Any] | None = None, **inputs: str) -> Path:
    """A run folder with nothing but its manifest."""
    folder.mkdir(exist_ok=True)
    refs = tuple(
        InputRef(field=field, name=name, fingerprint=fingerprint(["made", name])) for field, name in inputs.items()
    )
    manifest = Manifest(
        step=folder.name,
        stage=stage,
        stage_version="1",
        fingerprint=fingerprint(["made", folder.name]),
        seed=0,
        config={},
        inputs=refs,
        versions={},
        git_commit=None,
        device="cpu",
        started="",
        seconds=0.0,
        resumed=0,
        report=Report(marks=dict(marks or {})),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    step(tmp_path / "init", "student-init")
    step(tmp_path / "bought", "student-import")
    step(tmp_path / "clean", "curate", {"decontaminated": MARK})
    step(tmp_path / "unchecked", "curate", {"decontaminated": "unchecked"})
    step(tmp_path / "soft", "logits", data="clean")
    step(tmp_path / "ours", "problems", {"held_out": "by prompt hash"})
    step(tmp_path / "theirs", "problems", {})
    return tmp_path


CLEAN, FROM_CLEAN = "checked: 13-gram, 3 removed", {"model": "init", "data": "clean"}
NEVER = "was compared with no held-out problem"


@pytest.mark.parametrize(
    ("made", "source", "told"),
    [
        pytest.param(FROM_CLEAN, "gsm8k", CLEAN, id="checked"),
        pytest.param({"model": "init", "data": "soft"}, "gsm8k", CLEAN, id="through log-probabilities"),
        pytest.param(FROM_CLEAN, "math", "partly checked: clean was not compared with math", id="another exam"),
        pytest.param(FROM_CLEAN, "stories-numbers", CLEAN, id="variants of a family are held out by their own hash"),
        pytest.param(
            FROM_CLEAN,
            "gsm8k-numbers",
            "partly checked: clean was not compared with gsm8k-numbers",
            id="variants of a benchmark are texts of their own",
        ),
        pytest.param(
            {"model": "init", "data": "unchecked"}, "gsm8k", f"unchecked: unchecked {NEVER}", id="nobody compared"
        ),
        pytest.param({"model": "init", "data": "gone"}, "gsm8k", "unchecked: gone carries no mark", id="a file"),
        pytest.param(
            {"model": "bought", "data": "clean"}, "gsm8k", "unknown: bought holds weights from elsewhere", id="foreign"
        ),
        pytest.param(
            {"model": "init", "problems": "ours"}, "stories", "checked: problems held out by prompt hash", id="rl"
        ),
        pytest.param(
            {"model": "init", "problems": "theirs"},
            "gsm8k",
            "unchecked: theirs: its problems were compared with no held-out problem",
            id="rl on a benchmark",
        ),
    ],
)
def test_the_worst_that_is_true_is_told(made: dict[str, str], source: str, told: str, runs: Path) -> None:
    assert contamination(step(runs / "student", "sft", **made), {source}) == told


def test_what_a_checkpoint_was_trained_from_counts_too(runs: Path) -> None:
    step(runs / "base", "sft", model="init", data="unchecked")
    step(runs / "student", "sft", model="base", data="clean")
    assert contamination(step(runs / "small", "quantize", model="student"), {"gsm8k"}).startswith("unchecked: ")


def test_fresh_weights_have_learned_nothing(runs: Path) -> None:
    assert contamination(runs / "init", {"gsm8k"}) == "untrained"


def test_a_training_set_made_again_since_proves_nothing(runs: Path) -> None:
    student = step(runs / "student", "sft", model="init", data="clean")
    path = runs / "clean" / "manifest.json"
    path.write_text(path.read_text().replace(fingerprint(["made", "clean"]), "0" * 16))
    assert contamination(student, {"gsm8k"}) == "unchecked: clean carries no mark"


def test_a_folder_from_elsewhere_is_unknown(tmp_path: Path) -> None:
    assert contamination(tmp_path / "hub-model", {"gsm8k"}) == "unknown: hub-model is not here as it was"
