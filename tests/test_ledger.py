"""The ledger loses nothing it acknowledged and writes nothing twice, whatever happens to its writer."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.ledger import Ledger, Places, read_ledger, read_placed, trace_id
from distill.records import Message, Params, SamplerId, Verdict

KILLS = Path(__file__).parent / "harvest_kills.py"


def verdict(number: int, why: str = "ünï") -> Verdict:
    return Verdict(trace_id=f"t{number}", judge_version="1", status="wrong", why=why)


def ids(folder: Path) -> list[str]:
    return [row.trace_id for row in read_ledger(folder, Verdict)]


def fill(folder: Path, numbers: range, batch: int = 128, shard_bytes: int = 1 << 20) -> None:
    with Ledger(folder, batch=batch, shard_bytes=shard_bytes) as ledger:
        for number in numbers:
            ledger.append(verdict(number))


def fill_and_stop(folder: Path, count: int) -> None:
    """Write records, then end as an interrupted run does: flushed and unsealed."""
    with contextlib.suppress(KeyboardInterrupt), Ledger(folder) as ledger:
        ledger.extend([verdict(number) for number in range(count)])
        raise KeyboardInterrupt


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of content alone: nothing here survives or needs to survive a power cut."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_records_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    fill(tmp_path, range(300), batch=7)
    assert ids(tmp_path) == [f"t{number}" for number in range(300)]


def test_a_line_is_the_record_with_its_crc_in_front(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    line = (tmp_path / "0000.jsonl").read_bytes()
    payload = verdict(0).to_json().encode()
    assert line == b'{"crc":"%08x",' % zlib.crc32(payload) + payload[1:] + b"\n"


def test_shards_stream_into_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    fill(tmp_path, range(5), batch=2, shard_bytes=200)
    files = sorted(str(path) for path in tmp_path.glob("*.jsonl"))
    assert len(files) > 1
    rows = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    assert [row["trace_id"] for row in rows] == ids(tmp_path)


def test_nothing_is_on_disk_before_the_batch_is_full(tmp_path: Path) -> None:
    with Ledger(tmp_path, batch=3) as ledger:
        ledger.append(verdict(0))
        ledger.append(verdict(1))
        assert (ledger.acknowledged, ids(tmp_path)) == (0, [])
        ledger.append(verdict(2))
        assert (ledger.acknowledged, len(ids(tmp_path))) == (3, 3)


def test_a_slow_sampler_is_written_without_waiting_for_a_full_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("distill.ledger.time.monotonic", lambda: now[0])
    with Ledger(tmp_path, batch=1000) as ledger:
        now[0] += 1.5
        ledger.append(verdict(0))
        assert ledger.acknowledged == 1


def test_records_that_belong_together_are_never_split_over_two_writes(tmp_path: Path) -> None:
    with Ledger(tmp_path, batch=3) as ledger:
        ledger.extend([verdict(number) for number in range(2)])
        ledger.extend([verdict(number) for number in range(2, 6)])
        assert ledger.acknowledged == 6


def test_what_refers_to_a_trace_is_written_after_the_trace(tmp_path: Path) -> None:
    with Ledger(tmp_path / "traces") as traces, Ledger(tmp_path / "verdicts", after=traces, batch=1) as verdicts:
        traces.append(verdict(0))
        verdicts.append(verdict(0))
        assert ids(tmp_path / "traces") == ["t0"]


def test_shards_roll_by_size_and_sha256sum_accepts_them(tmp_path: Path) -> None:
    fill(tmp_path, range(50), batch=5, shard_bytes=1000)
    shards = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert shards == [f"{number:04}.jsonl" for number in range(len(shards))]
    assert len(shards) > 3
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == len(shards)


def test_a_sealed_shard_is_never_reopened(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    before = (tmp_path / "0000.jsonl").read_bytes()
    fill(tmp_path, range(3, 5))
    assert (tmp_path / "0000.jsonl").read_bytes() == before
    assert ids(tmp_path) == ["t0", "t1", "t2", "t3", "t4"]


def test_an_interrupted_writer_keeps_what_it_has_and_leaves_its_shard_open(tmp_path: Path) -> None:
    fill_and_stop(tmp_path, 1)
    assert ids(tmp_path) == ["t0"]
    fill(tmp_path, range(1, 3))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["0000.jsonl"]
    assert ids(tmp_path) == ["t0", "t1", "t2"]


def test_ctrl_c_in_the_middle_of_a_write_neither_tears_nor_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite

    def interrupted(descriptor: int, block: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", whole)
        whole(descriptor, bytes(block)[:50], offset)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, range(1), batch=1)
    assert ids(tmp_path) == ["t0"]


@pytest.mark.usefixtures("no_sync")
def test_a_tail_torn_at_any_byte_of_the_last_two_records_is_cut_and_written_again(tmp_path: Path) -> None:
    source = tmp_path / "whole"
    fill_and_stop(source, 4)
    whole = (source / "0000.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    torn = tmp_path / "torn"
    torn.mkdir()
    for size in range(ends[1], len(whole)):
        (torn / "0000.jsonl").write_bytes(whole[:size])
        (torn / "SHA256SUMS").unlink(missing_ok=True)
        kept = sum(end <= size for end in ends)
        with Ledger(torn) as ledger:
            assert ledger.cut == size - ends[kept - 1]
            assert len(ids(torn)) == kept
            ledger.extend([verdict(number) for number in range(kept, 4)])
        assert (torn / "0000.jsonl").read_bytes() == whole


def test_a_reader_reports_a_torn_tail_instead_of_cutting_it(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    shard = tmp_path / "0000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"0000\.jsonl:2: cut short"):
        ids(tmp_path)


@pytest.mark.usefixtures("no_sync")
def test_a_disk_that_fills_up_leaves_whole_records_and_the_run_resumes(tmp_path: Path) -> None:
    numbers = range(10, 50)  # lines of one length
    fill(tmp_path / "all", numbers)
    line = (tmp_path / "all" / "0000.jsonl").stat().st_size // len(numbers)
    for room in range(3 * line + 1, 30 * line, line + 7):
        folder = tmp_path / str(room)
        with file_size_limit(room), pytest.raises(UserError, match="make room and run the same command again"):
            fill(folder, numbers, batch=3)
        stored = ids(folder)
        assert stored == [f"t{number}" for number in numbers[: room // (3 * line) * 3]]
        with Ledger(folder) as ledger:
            assert ledger.cut == 0
            ledger.extend([verdict(number) for number in numbers[len(stored) :]])
        assert ids(folder) == [f"t{number}" for number in numbers]


def test_a_full_disk_is_named_with_the_room_left_and_the_waiting_records_still_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite

    def full(descriptor: int, block: bytes, offset: int) -> int:
        if len(block) > 60:
            return whole(descriptor, bytes(block)[:60], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Ledger(tmp_path) as ledger:
        ledger.append(verdict(0))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"No space left on device \([\d,]+ bytes free, [\d,]+ needed\)"):
            ledger.flush()
        assert (tmp_path / "0000.jsonl").read_bytes() == b""
        monkeypatch.setattr(os, "pwrite", whole)
        ledger.flush()
    assert ids(tmp_path) == ["t0"]


def test_a_second_writer_is_refused_and_told_who_holds_the_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(UserError, match=f"being written by process {os.getpid()} on"):
        Ledger(tmp_path)
    with Ledger(tmp_path) as free:
        assert free.cut == 0


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, range(20), batch=50)
    shard = tmp_path / "0000.jsonl"
    (tmp_path / "SHA256SUMS").unlink()  # the lines must defend themselves
    whole = shard.read_bytes()
    rng = random.Random(0)
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"0000\.jsonl:\d+: "):
            ids(tmp_path)


def test_every_bad_line_is_named_and_the_good_ones_are_still_read(tmp_path: Path) -> None:
    fill(tmp_path, range(5))
    (tmp_path / "SHA256SUMS").unlink()
    shard = tmp_path / "0000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"wrong", b"right")
    lines[3] = b'{"trace_id":"no crc"}\n'
    shard.write_bytes(b"".join(lines))
    read: list[str] = []
    with pytest.raises(UserError) as error:
        read.extend(row.trace_id for row in read_ledger(tmp_path, Verdict))
    assert str(error.value).splitlines() == [
        f"{shard}:2: checksum does not match: the line was changed after it was written",
        f'{shard}:4: not a ledger line, expected {{"crc":"...',
    ]


def test_a_record_of_another_kind_is_named_by_its_key(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    with pytest.raises(UserError, match=r"0000\.jsonl:1: name: Field required"):
        list(read_ledger(tmp_path, SamplerId))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        pytest.param(lambda f: (f / "0001.jsonl").unlink(), "0001.jsonl: sealed but missing", id="a shard is gone"),
        pytest.param(
            lambda f: (f / "0001.jsonl").write_bytes((f / "0001.jsonl").read_bytes().partition(b"\n")[2]),
            "0001.jsonl: lines are missing or added",
            id="a whole line is gone: every crc still fits",
        ),
        pytest.param(lambda f: (f / "SHA256SUMS").write_text("deadbeef"), "SHA256SUMS:1: expected", id="seals damaged"),
    ],
)
def test_damage_no_single_line_can_show_is_found_by_the_seal(tmp_path: Path, harm, complaint: str) -> None:  # type: ignore[no-untyped-def]
    fill(tmp_path, range(20), batch=2, shard_bytes=500)
    harm(tmp_path)
    with pytest.raises(UserError, match=complaint):
        ids(tmp_path)


def test_a_folder_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ids(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        pytest.param("a\ud800b", "a\ufffdb", id="lone high surrogate"),
        pytest.param("a\udc00", "a\ufffd", id="lone low surrogate at the end"),
        pytest.param("\ud83d\ude00", "😀", id="two halves of one character"),
        pytest.param("a\x00\u2028\r\nb", "a\x00\u2028\r\nb", id="odd but valid characters stay"),
    ],
)
def test_half_characters_are_replaced_before_they_reach_the_disk(tmp_path: Path, text: str, stored: str) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.append(verdict(0, text)).why == stored
    assert [row.why for row in read_ledger(tmp_path, Verdict)] == [stored]


ASKED = {
    "problem_id": "p",
    "messages": (Message(role="user", content="2 + 2 ?"),),
    "sampler": SamplerId(name="r1", revision="a"),
    "template": "chatml",
    "params": Params(max_tokens=10),
    "seed": 0,
    "sample_index": 0,
    "round": 0,
    "parent": None,
}


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("problem_id", "q"),
        ("messages", (Message(role="user", content="2 + 3 ?"),)),
        ("sampler", SamplerId(name="r1", revision="b")),
        ("template", "words"),
        ("params", Params(max_tokens=11)),
        ("seed", 1),
        ("sample_index", 1),
        ("round", 1),
        ("parent", "t"),
    ],
)
def test_a_trace_id_tells_apart_all_that_was_asked(key: str, other: object) -> None:
    assert trace_id(**ASKED) != trace_id(**{**ASKED, key: other})  # type: ignore[arg-type]


def test_a_trace_id_is_the_same_for_ever() -> None:
    assert trace_id(**ASKED) == "00cfb40860e72dfe"  # type: ignore[arg-type]


def test_kill_9_at_random_instants_loses_nothing_and_doubles_nothing() -> None:
    result = subprocess.run([sys.executable, str(KILLS), "40"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "0 acknowledged records lost, 0 doubled" in result.stdout


def test_a_record_is_read_again_by_its_place(tmp_path: Path, no_sync: None) -> None:
    fill(tmp_path, range(50), batch=4, shard_bytes=400)
    places = [(shard, offset) for shard, offset, _ in read_placed(tmp_path, Verdict)]
    assert len({shard for shard, _ in places}) > 5
    ledger = Places(tmp_path, Verdict)
    for number in (49, 0, 25, 26, 24):
        assert ledger.read(*places[number]) == verdict(number)
    ledger.close()
    assert ledger.read(*places[3]) == verdict(3)
    ledger.close()


@pytest.mark.parametrize(
    ("shift", "complaint"),
    [
        pytest.param(0, "checksum does not match", id="changed"),
        pytest.param(3, "not a ledger line", id="in the middle of a line"),
        pytest.param(10**6, "cut short", id="behind the end"),
    ],
)
def test_a_place_that_holds_no_whole_record_is_named(tmp_path: Path, shift: int, complaint: str) -> None:
    fill(tmp_path, range(3))
    *_, (shard, offset, _) = read_placed(tmp_path, Verdict)
    path = tmp_path / "0000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"t2"', b'"t9"'))
    ledger = Places(tmp_path, Verdict)
    with pytest.raises(UserError, match=rf"0000\.jsonl: byte {offset + shift}: .*{complaint}"):
        ledger.read(shard, offset + shift)
    ledger.close()


def test_a_killed_harvest_never_asks_a_server_again_for_what_was_acknowledged() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.server_kills", "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 acknowledged traces lost, 0 doubled, 0 acknowledged ones asked again" in result.stdout
