"""Every bad line is named; files are whole or absent."""

from pathlib import Path

import pytest

from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.records import Message

GOOD = '{"role":"user","content":"hi"}'


def test_rows_survive(tmp_path: Path) -> None:
    rows = [Message(role="user", content="a\nb\u2028c"), Message(role="assistant", content="½")]
    write_jsonl(tmp_path / "m.jsonl", rows)
    assert read_jsonl(tmp_path / "m.jsonl", Message) == rows


def test_every_bad_line_is_named_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join([GOOD, "{not json", GOOD, '{"role":"user"}', '{"role":"ghost","content":"x"}']))
    with pytest.raises(UserError) as error:
        read_jsonl(path, Message)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:2", f"{path}:4", f"{path}:5"]
    assert "content: Field required" in lines[1]


def test_a_thousand_bad_lines_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("[]\n" * 1000)
    with pytest.raises(UserError) as error:
        read_jsonl(path, Message)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [
        f"{path}:{number}" for number in range(1, 1001)
    ]


def test_more_bad_lines_than_anybody_reads_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.jsonl.MAX_BAD_LINES", 20)
    path = tmp_path / "m.jsonl"
    path.write_text("[]\n" * 1000)
    with pytest.raises(UserError, match="and 980 more bad lines"):
        read_jsonl(path, Message)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        read_jsonl(tmp_path / "none.jsonl", Message)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_jsonl(path, [Message(role="user", content="old")])

    def rows():  # type: ignore[no-untyped-def]
        yield Message(role="user", content="new")
        raise RuntimeError("source died")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert read_jsonl(path, Message) == [Message(role="user", content="old")]
