"""Stored traces are found, counted, checked and carried out as they stand in their shards, whatever an index says."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from distill.content import INDEX, file_fingerprint
from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.harvest.accounting import Billing
from distill.jsonl import write_jsonl
from distill.ledger import Ledger, read_ledger
from distill.progress import Progress
from distill.records import Params, Problem, SamplerId, Status, Trace, Verdict
from distill.traces.export import export
from distill.traces.index import Index
from distill.traces.show import Shown, in_full, look_up
from distill.traces.stats import list_folders, stats
from distill.traces.verify import Checked, Fault, verify

QUIET = Progress("quiet")
STATUSES: tuple[Status, ...] = ("correct", "correct", "wrong", "truncated")


def trace(number: int, *, text: str = "") -> Trace:
    return Trace(
        id=f"{number:016x}",
        problem_id=f"p{number // 4}",
        sampler=SamplerId(name="r1" if number % 2 else "v3", revision="a"),
        params=Params(max_tokens=100, temperature=0.6),
        sample_index=number % 4,
        reasoning="so" if number % 4 < 3 else None,
        answer="42" if number % 4 < 3 else None,
        text=text or "<think>so</think>42",
        finish="stop" if number % 4 < 3 else "length",
        prompt_tokens=3,
        completion_tokens=number + 1,
        token_ids=(1, 2, 3),
    )


def verdict(number: int) -> Verdict:
    return Verdict(trace_id=f"{number:016x}", judge_version="4", status=STATUSES[number % 4], extracted="42")


def fill(folder: Path, numbers: range, *, seal: bool = True, shard_bytes: int = 1500) -> Path:
    for kind, make in ((TRACES, trace), (VERDICTS, verdict)):
        ledger = Ledger(folder / kind, batch=1, shard_bytes=shard_bytes)
        for number in numbers:
            ledger.append(make(number))
        ledger.close(complete=seal)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Forty traces of ten problems in many shards, with their problems beside them."""
    folder = fill(tmp_path / "run", range(40))
    problems = (
        Problem(id=f"p{n}", kind="answer", prompt="?", answer="42", source="sums", level=n % 2, split="train")
        for n in range(10)
    )
    write_jsonl(folder / "problems.jsonl", problems)
    return folder


def faults(folder: Path) -> list[Fault]:
    return list(verify(folder, Checked(), QUIET))


def shard(folder: Path, number: int = 0, kind: str = TRACES) -> Path:
    return folder / kind / f"{number:04}.jsonl"


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are read into an index from now on."""
    seen: list[str] = []
    whole = Index._refresh_shard

    def refresh(self: Index, kind: str, path: Path, *rest: object) -> Iterator[Fault]:
        seen.append(f"{kind}/{path.stem}")
        return whole(self, kind, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "_refresh_shard", refresh)
    return seen


def test_stats_count_what_is_stored(run: Path) -> None:
    told = stats(run, problems=None, progress=QUIET)
    assert (told.traces, told.problems, told.with_thought, told.completion_tokens) == (40, 10, 30, sum(range(1, 41)))
    assert told.verdicts == {"correct": 20, "wrong": 10, "truncated": 10}
    assert [(group.name, group.traces, group.verdicts["correct"]) for group in told.families] == [
        ("sums/level-0", 20, 10),
        ("sums/level-1", 20, 10),
    ]
    assert [group.name for group in told.samplers] == ["r1 a", "v3 a"]
    every, correct = told.lengths[:2]
    assert every.quantiles == {"0.05": 2, "0.25": 10, "0.5": 20, "0.75": 30, "0.95": 38, "0.99": 40, "1": 40}
    assert correct.quantiles["1"] == 38


def test_a_shared_prompt_and_a_continued_thought_are_counted_once(tmp_path: Path) -> None:
    parent, billing = f"{3:016x}", Billing(continues=True)
    stored = [
        *(trace(n).model_copy(update={"together": 3, "prompt_tokens": 90}) for n in range(3)),
        trace(3).model_copy(update={"prompt_tokens": 90}),
        trace(30).model_copy(
            update={"problem_id": "p0", "parent": parent}
        ),  # goes on behind the 4 tokens of its parent
        trace(34).model_copy(update={"problem_id": "p0", "parent": f"{1:016x}"}),  # checks one that had ended
    ]
    with Ledger(tmp_path / TRACES) as ledger:
        ledger.extend(stored)
    told, spent = stats(tmp_path, problems=None, progress=QUIET), [billing.of(one) for one in stored]
    assert told.completion_tokens == sum(one.completion for one in spent) == 1 + 2 + 3 + 4 + (31 - 4) + 35
    assert told.prompt_tokens == sum(one.prompt for one in spent) == 90 + 90 + (3 + 4) + 3
    assert told.prompt_tokens_once == 90 + 90 + (3 + 4) + 3, "two samplers read the prompt of four samples"
    assert sum(group.tokens for group in told.samplers) == told.completion_tokens


def test_samples_asked_one_by_one_would_share_a_prompt_read_once(run: Path) -> None:
    told = stats(run, problems=None, progress=QUIET)
    assert (told.prompt_tokens, told.prompt_tokens_once) == (40 * 3, 10 * 2 * 3)


def test_the_later_of_two_verdicts_counts(run: Path) -> None:
    with Ledger(run / VERDICTS) as ledger:
        ledger.append(Verdict(trace_id=f"{2:016x}", judge_version="5", status="correct"))
    told = stats(run, problems=None, progress=QUIET)
    assert (told.verdicts["correct"], told.judges) == (21, {"4": 39, "5": 1})


def test_a_fresh_index_reads_no_shard_and_a_grown_one_only_what_grew(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats(run, problems=None, progress=QUIET)
    seen = watched(monkeypatch)
    stats(run, problems=None, progress=QUIET)
    assert seen == []
    with Ledger(run / TRACES) as ledger:
        ledger.append(trace(40))
    assert stats(run, problems=None, progress=QUIET).traces == 41
    assert seen == [f"{TRACES}/{max(path.stem for path in (run / TRACES).glob('*.jsonl'))}"]


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda file: file.unlink(), id="deleted"),
        pytest.param(lambda file: file.write_bytes(b"no database at all" * 100), id="overwritten"),
        pytest.param(lambda file: file.write_bytes(b""), id="emptied"),
    ],
)
def test_an_index_is_made_again(run: Path, harm) -> None:  # type: ignore[no-untyped-def]
    before = stats(run, problems=None, progress=QUIET)
    harm(run / INDEX)
    assert stats(run, problems=None, progress=QUIET) == before


def test_a_changed_shard_is_read_anew_and_a_forged_one_is_found_out_when_read(run: Path) -> None:
    name = f"{1:016x}"
    assert isinstance(look_up(name, [run], None, QUIET), Shown)
    path = shard(run)
    state, whole = path.stat(), path.read_bytes()
    path.write_bytes(whole.replace(b'"42"', b'"43"', 2))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time say that nothing happened
    with pytest.raises(UserError, match=r"0000\.jsonl: byte \d+: checksum does not match"):
        look_up(name, [run], None, QUIET)
    os.utime(path)
    with pytest.raises(UserError, match="no trace and no problem of that id"):
        look_up(name, [run], None, QUIET)


def test_the_index_is_no_part_of_what_a_folder_holds(run: Path) -> None:
    before = file_fingerprint(run)
    stats(run, problems=None, progress=QUIET)
    assert (run / INDEX).is_file()
    assert file_fingerprint(run) == before


def test_the_half_line_of_a_writer_at_work_is_not_there_yet(tmp_path: Path) -> None:
    run = fill(tmp_path / "run", range(3), seal=False, shard_bytes=1 << 20)
    with shard(run).open("ab") as file:
        file.write(b'{"crc":"12')
    assert stats(run, problems=None, progress=QUIET).traces == 3
    (fault,) = faults(run)
    assert (fault.line, fault.damage) == (4, False)


def test_show_finds_a_trace_by_the_beginning_of_its_id_and_lists_those_of_a_problem(run: Path) -> None:
    found = look_up("0000000000000027", [run], None, QUIET)
    assert isinstance(found, Shown)
    assert (found.trace, found.verdict) == (trace(39), verdict(39))
    assert found.problem is not None
    several = look_up("p3", [run], None, QUIET)
    assert not isinstance(several, Shown)
    assert [row.id for row in several.found] == [f"{number:016x}" for number in range(12, 16)]


def test_control_characters_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with Ledger(tmp_path / TRACES) as ledger:
        ledger.append(trace(3, text="\x1b]0;owned\x07 \u202e ok\n"))
    shown = look_up(f"{3:016x}", [tmp_path], None, QUIET)
    assert isinstance(shown, Shown)
    text = "\n".join(line.plain for line in in_full(shown))
    assert "␛]0;owned␇ � ok" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_whole_ledger_has_no_fault(run: Path) -> None:
    checked = Checked()
    assert list(verify(run, checked, QUIET)) == []
    assert (checked.traces, checked.verdicts, checked.damage) == (40, 40, 0)


def drop_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def double(folder: Path) -> None:
    with Ledger(folder) as ledger:
        ledger.append(next(iter(read_ledger(folder, Trace))))


def lose_traces(run: Path) -> None:
    shutil.rmtree(run / TRACES)
    (run / TRACES).mkdir()


@pytest.mark.parametrize(
    ("harm", "where", "why"),
    [
        pytest.param(
            lambda run: shard(run, 1).write_bytes(shard(run, 1).read_bytes().replace(b"so", b"no", 1)),
            r"traces/0001\.jsonl:1",
            "checksum does not match",
            id="a changed byte",
        ),
        pytest.param(lambda run: cut(shard(run, 1)), r"traces/0001\.jsonl:\d", "cut short", id="a torn sealed shard"),
        pytest.param(lambda run: drop_line(shard(run, 1), 0), r"traces/0001\.jsonl", "lines are missing", id="no line"),
        pytest.param(lambda run: shard(run, 2).unlink(), r"traces/0002\.jsonl", "sealed but missing", id="no shard"),
        pytest.param(
            lambda run: (run / TRACES / "SHA256SUMS").write_text("x\n"), "SHA256SUMS:1", "expected", id="a bad seal"
        ),
        pytest.param(
            lambda run: double(run / TRACES), r"traces/\d+\.jsonl:1", r"is at .*0000\.jsonl:1 already", id="a double"
        ),
        pytest.param(
            lose_traces,
            r"verdicts/0000\.jsonl:1",
            "no such trace is stored",
            id="verdicts on no trace",
        ),
    ],
)
def test_every_fault_is_named_with_its_place(run: Path, harm, where: str, why: str) -> None:  # type: ignore[no-untyped-def]
    harm(run)
    found = faults(run)
    assert any(re.search(f"{where}$", fault.where) and re.search(why, fault.why) and fault.damage for fault in found), [
        (fault.where, fault.why) for fault in found
    ]


def test_traces_without_a_verdict_are_damage_only_where_the_run_is_done(run: Path) -> None:
    shutil.rmtree(run / VERDICTS)
    (note,) = faults(run)
    assert (note.damage, note.line) == (False, 1)
    assert "40 traces have no verdict: the run is not finished" in note.why
    (run.parent / "manifest.json").write_text("{}")  # a bench: the folder above is the run
    assert [fault.damage for fault in faults(run)] == [True] * 40


def test_a_flipped_bit_is_found_in_its_line(run: Path) -> None:
    rng = random.Random(0)
    shards = sorted((run / TRACES).glob("*.jsonl")) + sorted((run / VERDICTS).glob("*.jsonl"))
    for _ in range(150):  # make ledger-audit flips a thousand
        path = rng.choice(shards)
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        line = whole.count(b"\n", 0, place) + 1
        assert (path, line) in {(fault.path, fault.line) for fault in faults(run)}
        path.write_bytes(whole)


def test_export_opens_in_datasets_with_one_type_a_column(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "set"
    assert export(run, out, verdicts=["correct"], tokens=True, problems=None, progress=QUIET) == 20
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == [f"{number:016x}" for number in range(40) if number % 4 < 2]
    assert rows[1]["level"] == 0
    assert rows[1]["token_ids"] == [1, 2, 3]
    assert (rows.features["level"].dtype, rows.features["answer"].dtype) == ("int64", "string")
    assert "| correct | 20 |" in (out / "README.md").read_text()


def test_export_streams_in_row_groups_and_into_several_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("distill.traces.export.GROUP_ROWS", 7)
    export(run, tmp_path / "one.parquet", verdicts=(), tokens=False, problems=None, progress=QUIET)
    one = pq.ParquetFile(tmp_path / "one.parquet")
    assert (one.metadata.num_rows, one.metadata.num_row_groups) == (40, 6)
    monkeypatch.setattr("distill.traces.export.FILE_CHARACTERS", 300)
    export(run, tmp_path / "many", verdicts=(), tokens=False, problems=None, progress=QUIET)
    files = sorted((tmp_path / "many" / "data").iterdir())
    assert len(files) > 2
    assert [id_ for file in files for id_ in pq.read_table(file)["id"].to_pylist()] == one.read()["id"].to_pylist()


def test_an_export_of_a_damaged_ledger_leaves_nothing(run: Path, tmp_path: Path) -> None:
    shard(run, 3).write_bytes(shard(run, 3).read_bytes().replace(b"so", b"no", 1))
    with pytest.raises(UserError, match=r"0003\.jsonl:1: checksum"):
        export(run, tmp_path / "set", verdicts=(), tokens=False, problems=None, progress=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param({"verdicts": ["corect"]}, r"--verdict corect: unknown \(did you mean correct\?\)", id="verdict"),
        pytest.param({"verdicts": ["timeout"]}, "no trace is timeout", id="none of that verdict"),
        pytest.param({"problems": Path("nowhere")}, "nowhere: no such file", id="problems"),
    ],
)
def test_an_export_that_cannot_be_says_why(run: Path, tmp_path: Path, options: dict, complaint: str) -> None:
    given = {"verdicts": (), "tokens": False, "problems": None, "progress": QUIET} | options
    with pytest.raises(UserError, match=complaint):
        export(run, tmp_path / "set", **given)


def test_a_list_names_every_run_folder_below(run: Path) -> None:
    fill(run.parent / "bench" / "teacher", range(4), seal=False)
    rows = list(list_folders(run.parent, QUIET))
    assert [(Path(row.folder).name, row.state, row.traces) for row in rows] == [
        ("teacher", "open", 4),
        ("run", "sealed", 40),
    ]
    assert rows[1].samplers == ("r1", "v3")


def test_the_commands_tell_damage_from_what_cannot_be_looked_at(run: Path) -> None:
    def ended(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["traces", *map(str, words)])
        return result.exit_code, result.output or repr(result.exception)

    assert ended("verify", run)[0] == 0
    assert ended("ls", run.parent)[0] == 0
    assert json.loads(ended("stats", run, "--json")[1])["traces"] == 40
    assert json.loads(ended("show", f"{5:016x}", run, "--json")[1])["verdict"]["status"] == "correct"
    drop_line(shard(run, 1), 0)
    code, told = ended("verify", run)
    assert code == 1
    assert f"{shard(run, 1)}: lines are missing" in told
    assert isinstance(CliRunner().invoke(app, ["traces", "verify", str(run / "no")]).exception, UserError)


def test_looking_needs_neither_torch_nor_pyarrow(run: Path) -> None:
    stats(run, problems=None, progress=QUIET)
    code = f"""if True:
        import sys
        from pathlib import Path
        from distill.progress import Progress
        from distill.traces.stats import stats
        stats(Path({str(run)!r}), problems=None, progress=Progress("quiet"))
        assert "torch" not in sys.modules and "pyarrow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
