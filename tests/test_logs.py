"""Logs beside the curve: only when asked, the rows of the curve and no others, nothing sent anywhere."""

from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.train import logs
from distill.train.curve import Agreement, Curve, SftPoint
from distill.train.sft import sft
from distill.train.sft_table import SftConfig
from tests.toy_models import toy_examples, toy_model


def point(step: int) -> SftPoint:
    near = Agreement(
        cross_entropy=1, divergence=0.5, overlap=0.5, teacher_mass=0.5, student_mass=0.5, entropy_gap=step / 10
    )
    return SftPoint(step=step, tokens=step * 10, loss=1 / step, lr=0.1, seconds=step, agreement=near)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_log_without_its_package_is_refused_before_anything_is_read(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda package: None)
    config = SftConfig(data="d", model="m", steps=1, log=(name,))
    with pytest.raises(UserError, match=rf"log: '{name}' needs the package {name}.*pip install 'distill-toolkit\[logs"):
        sft(tmp_path / "d", tmp_path / "m", tmp_path, config, loader=Any, seed=0, progress=Any)


def test_no_environment_variable_turns_a_log_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.loading import Folders
    from distill.progress import Progress

    for name in ("WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE", "TENSORBOARD_LOGGING_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "online")
    out = tmp_path / "out"
    out.mkdir()
    config = SftConfig(data="d", model="m", steps=1, allow_contaminated=True)
    model = toy_model(tmp_path / "model", seed=0)
    sft(toy_examples(tmp_path), model, out, config, loader=Folders(), seed=0, progress=Progress("quiet"))
    assert not {path.name for path in out.rglob("*")} & {"wandb", "tensorboard", "runs"}


def test_numbers_of_a_row_keep_the_names_of_their_tables() -> None:
    row = {
        "step": 3,
        "loss": 0.5,
        "experts": {"dead": 0, "by_layer": {"0": (1.0, 2.0)}},
        "mtp_loss": None,
        "source": "x",
    }
    assert dict(logs.numbers(row)) == {"loss": 0.5, "experts/dead": 0.0}


def test_tensorboard_has_the_rows_of_the_curve_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Curve(tmp_path, SftPoint, 0, ("tensorboard",))
    for step in (2, 4, 6):
        first.add(point(step))
    first.close()
    second = Curve(tmp_path, SftPoint, 4, ("tensorboard",))
    second.add(point(5))
    second.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    for name, of in (("loss", lambda row: row.loss), ("agreement/entropy_gap", lambda row: row.agreement.entropy_gap)):
        rows = [(row.step, of(row)) for row in read_jsonl(tmp_path / "curve.jsonl", SftPoint)]
        assert [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)] == rows
    assert [row[0] for row in rows] == [2, 4, 5]


def test_wandb_stays_offline_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    curve = Curve(tmp_path, SftPoint, 0, ("wandb",))
    curve.add(point(2))
    curve.close()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
