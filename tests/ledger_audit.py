"""All that docs/ledger.md claims of damage, measured through the command line: `make ledger-audit`.

A harvest of a procedural family is made once and then harmed: bits, tails, disks, a second writer, malformed input.
Each part prints one line; the exit code is 1 when any of them is not what is claimed. Kills are in
`tests/harvest_kills.py` (no server) and `tests/server_kills.py` (a server that keeps a log).
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cli.stages  # noqa: F401  # loaded once, before any command is forked
from cli import main as cli_main
from distill.harvest import TRACES, VERDICTS
from distill.ledger import Ledger, read_ledger
from distill.progress import Progress
from distill.records import Trace
from distill.runs import RESUME
from distill.traces.verify import Checked, verify
from tests import harvest_kills, server_kills

RECIPE = """
[problems]
families = { stories = { levels = [1, 2], train = 40, test = 1 } }
[harvest]
problems = "problems"
sampler = "oracle"
error_rate = 0.3
max_tokens = 120
samples = 4
"""
FLIPS, DISKS, KILLS, MALFORMED = 1000, 20, 100, 1000


Done = subprocess.CompletedProcess[str]


def distill(*words: object, limit: int | None = None) -> Done:
    """A command in a forked process whose files may not grow beyond `limit` bytes."""
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            os.dup2(told.fileno(), 1)
            os.dup2(told.fileno(), 2)
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = ["distill", *map(str, words)]
            code = 0
            try:
                cli_main.main()
            except SystemExit as stopped:
                code = int(stopped.code or 0)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), stderr=told.read())


def harvest(folder: Path, limit: int | None = None) -> Done:
    """Run the recipe that stands in a folder, into it."""
    return distill("run", "--recipe", folder / "r.toml", "--out", folder / "out", "--quiet", limit=limit)


def flips(run: Path) -> str:
    """Every flipped bit is found in the line it stands in."""
    rng, missed = random.Random(0), 0
    shards = sorted(path for kind in (TRACES, VERDICTS) for path in (run / kind).glob("*.jsonl"))
    for _ in range(FLIPS):
        path = rng.choice(shards)
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        line = whole.count(b"\n", 0, place) + 1
        found = {(fault.path, fault.line) for fault in verify(run, Checked(), Progress("quiet"))}
        missed += (path, line) not in found
        path.write_bytes(whole)
    assert not missed, f"{missed} flips not located"
    return f"{FLIPS:,} single bits flipped in traces and verdicts: {FLIPS:,} found, each in its line"


def tails(run: Path) -> str:
    """A shard torn at any byte of its last two records is told by verify, cut by the next writer and written again."""
    whole = (run / TRACES / "0000.jsonl").read_bytes()
    rows = list(read_ledger(run / TRACES, Trace))
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    torn = run.parent / "torn"
    sizes = range(ends[-3], len(whole))
    for size in sizes:
        shutil.rmtree(torn, ignore_errors=True)
        (torn / TRACES).mkdir(parents=True)
        (torn / TRACES / "0000.jsonl").write_bytes(whole[:size])
        told = [fault.line for fault in verify(torn, Checked(), Progress("quiet")) if "cut short" in fault.why]
        kept = sum(end <= size for end in ends)
        assert told == ([kept + 1] if size > ends[kept - 1] else []), (size, told)
        with Ledger(torn / TRACES) as ledger:
            assert ledger.cut == size - ends[kept - 1]
            ledger.extend(rows[kept:])
        assert (torn / TRACES / "0000.jsonl").read_bytes() == whole
    return f"torn at each of the {len(sizes):,} bytes of the last two records: all named, cut and written again"


def disks(folder: Path) -> str:
    """A disk full at twenty sizes: one line, exit code 2, nothing acknowledged lost, and the same command goes on."""
    wanted = {trace.id for trace in read_ledger(folder / "out" / "harvest" / TRACES, Trace)}
    most = (folder / "out" / "harvest" / TRACES / "0000.jsonl").stat().st_size
    full = folder / "full"
    for number in range(DISKS):
        shutil.rmtree(full, ignore_errors=True)
        full.mkdir()
        shutil.copy(folder / "r.toml", full)
        shutil.copytree(folder / "out" / "problems", full / "out" / "problems")
        stopped = harvest(full, limit=20_000 + (most - 21_000) * number // DISKS)
        assert stopped.returncode == 2, stopped
        assert re.search(r"bytes free, .* run the same command again", stopped.stderr), stopped.stderr
        part = [trace.id for trace in read_ledger(full / "out" / "harvest.partial" / TRACES, Trace)]
        resumed = harvest(full)
        assert resumed.returncode == 0, resumed.stderr
        found = [trace.id for trace in read_ledger(full / "out" / "harvest" / TRACES, Trace)]
        assert found[: len(part)] == part
        assert sorted(found) == sorted(wanted)
    return f"a disk full at {DISKS} sizes: {DISKS} of {DISKS} stopped with the room left, resumed to the same ids"


def second(folder: Path) -> str:
    """A second run is refused at once and told who holds the folder."""
    (folder / "busy").mkdir()
    shutil.copy(folder / "r.toml", folder / "busy")
    code = (
        "import sys, time; from pathlib import Path; from distill.runs import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    place = folder / "busy" / "out" / "problems"
    holder = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        begun, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["run", "--recipe", str(folder / "busy" / "r.toml"), "--out", str(place.parent)]
        refused = subprocess.run(
            [sys.executable, "-m", "cli.main", *command], capture_output=True, text=True, check=False
        )
        spent, now = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        holder.kill()
        holder.wait()
    assert refused.returncode == 2
    assert f"process {holder.pid} on" in refused.stderr, refused.stderr
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    assert cpu < 1.0, f"refused after {cpu:.1f} CPU s"
    return f"a second run refused in {spent:.2f} s ({cpu:.2f} CPU s), start of the command included, naming the holder"


def malformed(folder: Path) -> str:
    """Every malformed line of an input is named, through the command line."""
    good = (folder / "out" / "problems" / "problems.jsonl").read_text().splitlines()[:2]
    path, rng = folder / "bad.jsonl", random.Random(0)
    kinds = ("{not json", "[]", '{"id": 3}', good[0][: len(good[0]) // 2], good[0].replace('"kind"', '"kin"'), "\x00")
    path.write_text("\n".join([good[0], *(rng.choice(kinds) for _ in range(MALFORMED)), good[1]]) + "\n")
    place = folder / "named"
    done = distill("harvest", "--recipe", folder / "r.toml", "--from", path, "--out", place)
    named = {int(number) for number in re.findall(rf"^{re.escape(str(path))}:(\d+): ", done.stderr, re.M)}
    assert done.returncode == 2
    assert named == set(range(2, MALFORMED + 2)), f"{len(named)} lines named"
    return f"{MALFORMED:,} malformed lines of an input: {len(named):,} named as file:line"


def kills(_: Path) -> str:
    """Both programs say what they found and fail otherwise."""
    assert harvest_kills.main(KILLS) == 0
    assert server_kills.run(KILLS, None) == 0
    return f"{KILLS} kills without and {KILLS} with a server: nothing lost, nothing doubled, as told above"


def main() -> int:
    """Every part; returns 1 when a claim does not hold."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "r.toml").write_text(RECIPE)
        assert harvest(folder).returncode == 0
        run = folder / "out" / "harvest"
        assert not (run / RESUME).exists()
        assert json.loads((run / "manifest.json").read_text())["report"]["counts"]["traces"] == 320
        parts: tuple[tuple[Callable[[Path], str], Path], ...] = (
            (flips, run),
            (tails, run),
            (disks, folder),
            (second, folder),
            (malformed, folder),
            (kills, folder),
        )
        for part, place in parts:
            begun = time.monotonic()
            try:
                line = part(place)
            except AssertionError as error:
                failed, line = 1, f"NOT AS CLAIMED: {part.__doc__} {error}"
            print(f"{line} ({time.monotonic() - begun:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
