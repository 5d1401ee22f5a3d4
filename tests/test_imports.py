"""Foreign traces become an ordinary run folder: read right, judged where that is possible, nothing made up."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.imports.config import ImportConfig
from distill.imports.preview import preview
from distill.imports.reading import find_files, read_rows
from distill.imports.stage import BAD_ROWS, BadRow, open_walk
from distill.jsonl import read_jsonl, write_jsonl
from distill.judge import Judge
from distill.ledger import read_ledger
from distill.records import Problem, Trace, Verdict
from distill.sampling.replay import Label
from distill.selection import read_problems
from tests.import_sets import DATA, ROW, TALK, config, jsonl, lines, run


def test_ids_depend_on_content_alone_and_doubles_get_the_next_index(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "question": "2 + 2?"}, ROW, {**ROW, "gold": "3"}]
    first = lines(jsonl(tmp_path / "a.jsonl", *rows))
    assert [line.trace.id for line in first] == [line.trace.id for line in lines(jsonl(tmp_path / "b.jsonl", *rows))]
    assert [line.trace.sample_index for line in first] == [0, 0, 1, 0]
    assert len({line.trace.id for line in first}) == 4
    assert len({line.problem.id for line in first}) == 3  # another gold is another problem


def test_what_is_not_recorded_is_not_made_up(tmp_path: Path) -> None:
    known = {**ROW, "temperature": 0.5, "max_tokens": 9, "finish_reason": "length"}
    silent, told = lines(jsonl(tmp_path / "x.jsonl", {**ROW, "temperature": 0.5}, known))
    assert silent.trace.params is None
    assert told.trace.params is not None
    assert (told.trace.params.temperature, told.trace.params.max_tokens) == (0.5, 9)
    assert told.trace.finish == "length"


BAD: dict[str, tuple[object, str]] = {
    "no json": ("{", "not JSON that can be read"),
    "a key twice": ('{"question": "a", "question": "b"}', "key question twice"),
    "NaN": ('{"question": NaN}', "NaN is no number"),
    "not an object": ([1], "expected an object, got list"),
    "nothing answered": ({"question": "a"}, "response: nothing was answered"),
    "an empty question": ({**ROW, "question": " "}, "question: empty"),
    "a number for a text": ({**ROW, "response": 3}, "response: expected text, got 3"),
    "no question": ({"response": "a"}, "no question in it"),
    "a finish nobody knows": ({**ROW, "finish_reason": "tool_calls"}, "finish: expected one of stop"),
    "a label nobody knows": ({**ROW, "is_correct": "maybe"}, "label: expected yes or no, got maybe"),
    "a name of two lines": ({**ROW, "model": "a\nb"}, "teacher: expected a name on one line"),
    "an object for a gold": ({**ROW, "gold": {"a": 1}}, "gold: expected an answer"),
    "an id of another question": ({**ROW, "problem_id": 1, "question": "other"}, "an earlier row asks something else"),
}


def test_every_bad_row_is_named_with_its_place_and_reason(tmp_path: Path) -> None:
    good = {**ROW, "finish_reason": "stop", "is_correct": True, "problem_id": 1}
    path = jsonl(tmp_path / "x.jsonl", good, *(row for row, _ in BAD.values()), good)
    report = run(tmp_path / "out", config(path, bad_rows="skip"))
    found = read_jsonl(tmp_path / "out" / BAD_ROWS, BadRow)
    assert [row.where for row in found] == [f"{path}:{number}" for number in range(2, len(BAD) + 2)]
    for row, (name, (_, why)) in zip(found, BAD.items(), strict=True):
        assert why in row.why, name
    assert (report.counts["traces"], report.counts["bad_rows"]) == (2, len(BAD))


def test_a_thousand_bad_rows_stop_an_import_before_anything_is_judged(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", ROW, *["no json"] * 1000, ROW)
    with pytest.raises(UserError) as refused:
        run(tmp_path / "out", config(path))
    told = str(refused.value)
    assert f"{path}:2: not JSON" in told
    assert f"{path}:21: not JSON" in told
    assert "and 980 more" in told
    assert "1,000 of 1,002 rows refused" in told
    assert not (tmp_path / "out" / TRACES).exists()
    assert len(read_jsonl(tmp_path / "out" / BAD_ROWS, BadRow)) == 1000
    report = run(tmp_path / "kept", config(path, bad_rows="skip"))
    assert [trace.sample_index for trace in read_ledger(tmp_path / "kept" / TRACES, Trace)] == [0, 1]
    assert report.counts["bad_rows"] == 1000


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        pytest.param([TALK[0]], "expected a question and its answer, got user", id="never answered"),
        pytest.param(TALK[::-1], "got assistant, user", id="answer first"),
        pytest.param([*TALK, *TALK], "4 of them, a trace is one exchange", id="a long talk"),
        pytest.param([{"from": "tool", "value": "x"}, *TALK], "a turn of tool", id="a tool speaks"),
        pytest.param([{"from": "human"}, TALK[1]], "content: expected text, got None", id="nothing said"),
        pytest.param("hello", "expected a list of objects, got hello", id="no list"),
    ],
)
def test_a_conversation_that_is_no_exchange_is_a_bad_row(turns: object, why: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"conversations": TALK}, {"conversations": turns})
    _, bad = list(open_walk(config(path), tmp_path, None))
    assert why in bad.why


def test_the_first_exchange_of_a_talk_is_taken_when_asked_for(tmp_path: Path) -> None:
    later = [{"from": "human", "value": "and 2 + 2?"}, {"from": "gpt", "value": "4"}]
    (line,) = lines(jsonl(tmp_path / "x.jsonl", {"conversations": [*TALK, *later]}), turns="first")
    assert (line.problem.prompt, line.trace.answer) == ("1 + 1?", "2")


def test_half_characters_become_a_mark_and_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**ROW, "question": "bad \ud800 half"}, {**ROW, "question": "whole \U0001f600"})
    report = run(tmp_path / "out", config(path))
    assert [problem.prompt for problem in read_problems(tmp_path / "out")] == ["bad \ufffd half", "whole \U0001f600"]
    assert any("1 rows held half characters" in line for line in report.lines)


def parquet(path: Path, rows: list[Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_every_kind_of_file_gives_the_same_traces(tmp_path: Path) -> None:
    rows = [{**ROW, "question": f"{number} + 1?", "list": [1, {"a": "}"}]} for number in range(300)]
    plain = jsonl(tmp_path / "a.jsonl", *rows)
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    array = tmp_path / "c.json"
    array.write_text(json.dumps(rows, indent=1))
    table = parquet(tmp_path / "d.parquet", [{**row, "list": [1]} for row in rows], row_group_size=70)
    wanted = [(line.problem.id, line.trace.text) for line in lines(plain)]
    assert len(wanted) == 300
    for path in (zipped, array, table):
        assert [(line.problem.id, line.trace.text) for line in lines(path)] == wanted, path.name
    assert len(lines(tmp_path)) == 1200  # a folder is all files in it


def test_a_json_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.imports.reading.CHUNK", 7)
    path = tmp_path / "x.json"
    rows = [{"question": "ä" * 50, "response": "[{]}"}, {"a": {"b": [1, 2]}}]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert [raw.row for raw in read_rows(config(path), [path])] == rows
    path.write_text(json.dumps(rows)[:-4])
    with pytest.raises(UserError, match="item 2: not a whole JSON array"):
        list(read_rows(config(path), [path]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"not parquet", "not a parquet file"),
        ("x.jsonl.gz", gzip.compress(b'{"question": "1", "response": "1"}\n' * 999)[:-9], "not a whole gzip file"),
        ("x.csv", b"a,b", "expected a file that ends in"),
        ("x.jsonl", b"\n\n", "no row that can be read"),
        ("x.jsonl", b'{\n"question": "a"\n}', "x.jsonl:1: not JSON that can be read"),
        ("x.json", b'[{"question": "a", "question": "b"}]', "key question twice"),
        ("x.json", b'[{"question": "a"}]\n[{"question": "b"}]', "something stands behind the array"),
    ],
    ids=["parquet", "gzip", "csv", "empty", "JSON over lines", "a key twice in an array", "two arrays"],
)
def test_a_file_that_is_not_of_its_kind_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        lines(tmp_path / name)


def test_a_missing_file_names_the_data_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DISTILL_DATA"):
        find_files(ImportConfig(files="nowhere.jsonl", source="x"), tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_a_folder_of_datasets_is_read_as_datasets_reads_it(kind: str, tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list([dict(ROW), {**ROW, "question": "2 + 2?"}])
    folder = tmp_path / "set"
    if kind == "saved":
        datasets.DatasetDict({"train": made}).save_to_disk(str(folder))
    else:
        (folder / "data").mkdir(parents=True)
        made.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    table = ImportConfig(dataset=str(folder), source="set", teacher="someone")
    report = run(tmp_path / "out", table)
    assert (report.counts["traces"], report.counts["correct"]) == (2, 2)
    with pytest.raises(UserError, match="split 'exam': not loaded"):
        run(tmp_path / "other", table.model_copy(update={"dataset_split": "exam"}))


def test_a_hub_id_must_name_its_commit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dataset_revision must name the commit"):
        run(tmp_path / "out", ImportConfig(dataset="open-thoughts/OpenThoughts-114k", source="x", teacher="y"))


def test_problems_are_found_by_id_or_by_prompt(tmp_path: Path) -> None:
    known = [
        Problem(id="p/1", kind="answer", prompt="1  + 1?", answer="2", source="p", split="test"),
        Problem(id="p/2", kind="answer", prompt="2 + 2?", answer="4", source="p", split="test"),
    ]
    write_jsonl(tmp_path / "problems.jsonl", known)
    ids = jsonl(tmp_path / "ids.jsonl", {"problem_id": "p/2", "response": "4"}, {"problem_id": "p/9", "response": "4"})
    prompts = jsonl(tmp_path / "prompts.jsonl", {"question": "1 + 1?", "response": "2"}, {**ROW, "question": "new"})
    good, bad = list(open_walk(config(ids), tmp_path, tmp_path))
    assert good.lines[0].problem == known[1]
    assert "p/9: not among the problems given" in bad.why
    first, second = lines(prompts, problems=tmp_path)
    assert (first.problem, second.problem.id.startswith("set/")) == (known[0], True)
    with pytest.raises(UserError, match="name the problems that the column problem_id speaks of"):
        lines(ids)


def test_a_question_said_once_holds_for_the_rows_below(tmp_path: Path) -> None:
    rows = [{**ROW, "problem_id": 1}, {"problem_id": 1, "response": "3"}, {"problem_id": 2, "response": "3"}]
    first, second, third = list(open_walk(config(jsonl(tmp_path / "x.jsonl", *rows)), tmp_path, None))
    assert first.lines[0].problem == second.lines[0].problem
    assert "no question in it" in third.why


def test_nobody_speaks_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="teacher: missing"):
        lines(jsonl(tmp_path / "x.jsonl", ROW), teacher=None)


def test_sources_keep_licence_teacher_and_terms(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**ROW, "model": "gpt-4o"}, {**ROW, "model": "QwQ-32B"}, ROW)
    report = run(tmp_path / "out", config(path, licence="MIT", url="https://x"))
    terms = {source["teacher"]: source["terms"] for source in report.marks["sources"]}
    assert terms == {"gpt-4o": "forbids-training", "QwQ-32B": "allows-training", "someone": "unknown"}
    assert {(source["name"], source["licence"], source["traces"]) for source in report.marks["sources"]} == {
        ("set", "MIT", 1)
    }
    given = run(tmp_path / "given", config(path, terms="allows-training"))
    assert {(source["terms"], source["basis"]) for source in given.marks["sources"]} == {("allows-training", "given")}


def test_a_preview_shows_and_writes_nothing(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**ROW, "response": "<think>\x1b[31mred"}, "no json")
    before = sorted(tmp_path.rglob("*"))
    shown = "\n".join(line.plain for line in preview(open_walk(config(path), tmp_path, None), 2))
    assert sorted(tmp_path.rglob("*")) == before
    for expected in ("prompt <- question", "1 bad rows", f"{path}:2", "its thought never ends", "unknown"):
        assert expected in shown
    assert "\x1b" not in shown


def test_what_an_import_writes_is_bytes_of_its_input(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *({**ROW, "question": f"{number}?", "is_correct": True} for number in range(9)))
    for out in ("a", "b"):
        run(tmp_path / out, config(path))
    for name in ("problems.jsonl", "labels.jsonl", f"{TRACES}/0000.jsonl", f"{VERDICTS}/0000.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_import_killed_at_any_step_ends_as_if_it_had_not_been() -> None:
    script = [sys.executable, "-m", "tests.import_kills", "2", "9"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 imports wrong" in done.stdout


MEMORY = """
import resource, sys
from pathlib import Path
from distill.imports.config import ImportConfig
from distill.imports.stage import open_walk
path = Path(sys.argv[1])
walk = open_walk(ImportConfig(files=str(path), source="s", teacher="t"), path.parent, None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(1 for _ in walk.lines()) == int(sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("w") as file:
        for number in range(600):
            file.write(json.dumps({**ROW, "question": f"{number}?", "response": "x" * 200_000}) + "\n")
    here = Path(__file__).parent.parent
    script = [sys.executable, "-c", MEMORY, str(path), "600"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=here)
    assert int(done.stdout) < 30  # MB, of a file of 120


REAL = {
    "r1_distill_math_traces.jsonl": ({}, {"correct": 20, "wrong": 20}, (40, 40)),
    "r1_safety_traces_star1.jsonl": ({"teacher": "DeepSeek-R1"}, {"undecided": 1000}, (0, 0)),
    "math_cot_samples_qwen.jsonl": ({"teacher": "Qwen2.5-Math"}, {"correct": 729, "wrong": 71}, (800, 799)),
}


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl").is_file(), reason="DISTILL_DATA has no benchmarks")
@pytest.mark.parametrize("file", REAL)
def test_real_traces_are_judged_as_their_publishers_label_them(file: str, tmp_path: Path) -> None:
    fields, mix, (labels, agreed) = REAL[file]
    with Judge() as judge:
        table = ImportConfig.model_validate({"files": file, "source": "real", **fields})
        report = run(tmp_path / "out", table, judge=judge)
    found = Counter(verdict.status for verdict in read_ledger(tmp_path / "out" / VERDICTS, Verdict))
    assert found == mix
    assert (report.counts["labels"], report.counts["labels_agreed"]) == (labels, agreed)
    path = tmp_path / "out" / "labels.jsonl"
    assert (len(read_jsonl(path, Label)) if path.is_file() else 0) == labels
