"""A run folder exists only when it is complete, and one process holds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.runs import Manifest, Report, git_commit, hold, is_done, open_run, read_manifest, seal


def manifest(mark: str) -> Manifest:
    return Manifest(
        step="s", stage="s", stage_version="1", fingerprint=mark, seed=0, config={}, inputs=(), versions={},
        git_commit=None, device="cpu", started="now", seconds=0.0, resumed=0, report=Report(),
    )  # fmt: skip


def test_folder_appears_only_when_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with open_run(folder, "aaaa") as opened:
        assert opened is not None
        (opened.out / "x").write_text("1")
        assert not folder.exists()
        seal(folder, manifest("aaaa"))
    assert is_done(folder, "aaaa")
    assert not is_done(folder, "bbbb")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "x"]


def test_same_fingerprint_resumes_the_partial_folder(tmp_path: Path) -> None:
    for attempt in range(3):
        with open_run(tmp_path / "s", "aaaa") as opened:
            assert opened is not None
            assert opened.resumed == attempt
            assert (opened.out / "x").exists() == (attempt > 0)
            (opened.out / "x").write_text("kept")


def test_other_fingerprint_moves_the_partial_folder_aside(tmp_path: Path) -> None:
    for mark in ("aaaaaaaaaa", "bbbbbbbbbb", "aaaaaaaaaa", "bbbbbbbbbb"):
        with open_run(tmp_path / "s", mark) as opened:
            assert opened is not None
            assert opened.resumed == 0
            (opened.out / "x").write_text(mark)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "s.partial", "s.partial.aaaaaaaa", "s.partial.bbbbbbbb", "s.partial.aaaaaaaa-2",
    }  # fmt: skip


def test_second_process_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    code = f"from pathlib import Path; from distill.runs import hold\nwith hold(Path({str(folder)!r})): pass"
    with hold(folder):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "held by process" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unfinished_folder_is_not_read_as_a_result(tmp_path: Path) -> None:
    with open_run(tmp_path / "s", "aaaa"):
        pass
    with pytest.raises(UserError, match="run the step again to resume"):
        read_manifest(tmp_path / "s")


def test_garbage_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not a manifest this version can read"):
        read_manifest(tmp_path / "s")


def test_a_kill_just_before_the_rename_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with open_run(tmp_path / "s", "aaaa") as opened:
        assert opened is not None
        (opened.out / "x").write_text("kept")
        with monkeypatch.context() as patch:
            patch.setattr("distill.runs.os.rename", killed)
            with pytest.raises(KeyboardInterrupt):
                seal(tmp_path / "s", manifest("aaaa"))
    with open_run(tmp_path / "s", "aaaa") as opened:
        assert opened is not None
        assert (opened.out / "x").read_text() == "kept"


def test_a_step_finished_meanwhile_is_not_opened_again(tmp_path: Path) -> None:
    with open_run(tmp_path / "s", "aaaa"):
        seal(tmp_path / "s", manifest("aaaa"))
    with open_run(tmp_path / "s", "aaaa") as opened:
        assert opened is None


def test_a_machine_without_git_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git_commit() is None
