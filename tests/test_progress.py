"""Progress says what is watched: framed under the bar on a terminal, as plain lines elsewhere, never when quiet."""

import io

import pytest
from rich.console import Console

from distill.progress import Mode, Progress


def told(mode: Mode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("distill.progress.SILENT_FOR", 0.0)
    monkeypatch.setattr("distill.progress.PLAIN_EVERY", 0.0)
    progress = Progress(mode)
    screen = io.StringIO()
    progress.console = Console(file=screen, force_terminal=mode == "bars", width=100)
    with progress.task(
        "harvest", total=4, unit="traces", watch=lambda: ["spent [b]3[/b] of 9", "http://a  open"]
    ) as task:
        task.advance(2, tokens=10, facts="yield 50%")
    return screen.getvalue() + capsys.readouterr().err


@pytest.mark.parametrize(("mode", "framed"), [("bars", True), ("plain", False)])
def test_what_is_watched_stands_below_the_count(
    mode: Mode, framed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(mode, monkeypatch, capsys)
    assert "spent [b]3[/b] of 9" in said, "plain text, whatever brackets it has"
    assert "http://a  open" in said
    assert ("╭" in said) == framed
    assert framed or said.index("harvest") < said.index("http://a")


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert told("quiet", monkeypatch, capsys) == ""
