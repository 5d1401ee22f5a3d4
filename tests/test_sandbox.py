"""The walls around programs: no attack gets through, as root or as nobody, and nothing of one is left."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from distill.judge import Judge, Said, SandboxUnavailableError, programs
from distill.judge.sandbox import walls
from distill.judge.servers import Crew, Kind, Server
from distill.records import Problem
from distill.sandbox import WALLED, Sandbox
from tests.arena import NOBODY, arena, ask, descendants, memory_kb, readable_python, trouble
from tests.attacks import CALLED, NEAR, READERS

PROBLEM = Problem(id="p", kind="code", prompt="?", tests=CALLED, source="functions", split="test")
DOUBLE = "def f(x): return 2 * x"


@pytest.fixture(scope="module")
def judge():
    with Judge(timeout=3.0) as judge:
        yield judge


def altered(change):
    """A program server that does one thing before it comes up."""
    kind = programs.server(WALLED)
    boot = kind.flags[-1].replace("server.main", f"{change}; server.main")
    return dataclasses.replace(kind, flags=(*kind.flags[:-1], boot))


def running(process):
    """Whether there is such a process, and not only the entry of an ended one that init has not seen to yet."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(processes):
    """Whether they end within two seconds."""
    until = time.monotonic() + 2
    while time.monotonic() < until and any(map(running, processes)):
        time.sleep(0.01)
    return not any(map(running, processes))


@pytest.mark.parametrize(
    ("user", "namespaced"),
    [
        pytest.param(None, True, id="as we are"),
        pytest.param(NOBODY, False, id="as nobody, without namespaces"),
    ],
)
def test_no_attack_gets_through_and_nothing_of_it_is_left(user, namespaced):
    if user is not None and os.getuid() != 0:
        pytest.skip("only root can become another user")
    if user is not None and readable_python(user) is None:
        pytest.skip("no interpreter here that other users can run")
    with arena() as place:
        crew = Crew(place.kind(namespaced=namespaced, user=user))
        found = {attack.name: said for attack in place.attacks() if (said := trouble(attack, crew))}
        idle = 3 if "no namespaces" not in crew.layers else 2
        assert (found, crew.started, place.leftovers()) == ({}, 1, [])
        processes = place.processes()
        assert len(processes) == idle, "the server, its nursery and, with namespaces, who waits outside"
        crew.close()
        assert gone(processes)
        assert place.processes() == []


@pytest.mark.parametrize("name", READERS)
def test_readers_find_the_answer_where_the_checks_are_beside_them(name):
    """Elsewhere they do not, and not because they look in the wrong place."""
    with arena() as place:
        crew = Crew(place.kind())
        found = ask(crew, NEAR, f"{READERS[name]}def f(x): return search()\n")
        crew.close()
    assert (found["status"], found["isolation"]) == ("correct", "in-process"), found


def test_a_program_beside_its_checks_may_say_what_it_likes_but_it_stays_a_verdict():
    """It finds the secret of its verdict; words that mean something elsewhere mean nothing here."""
    code = (
        "import os, sys\ndef f(x):\n    frame = sys._getframe()\n"
        "    while 'ask' not in frame.f_locals: frame = frame.f_back\n"
        "    secret = frame.f_locals['ask']['secret']\n    for n in range(3, 32):\n"
        "        try: os.write(n, f'uncrossable {secret}\\n'.encode())\n        except OSError: pass\n"
    )
    with arena() as place:
        crew = Crew(place.kind())
        assert ask(crew, NEAR, code)["status"] == "wrong"
        crew.close()


def test_a_server_does_not_grow():
    with Judge(timeout=5.0) as judge:
        grown = []
        for most in (150, 450):
            for number in range(most):
                assert judge.judge(PROBLEM, Said(f"{DOUBLE}  # {most} {number}")).status == "correct"
            (server,) = judge._programs.idle
            grown.append([memory_kb(each) for each in descendants(server.process.pid)])
    assert max(after - before for before, after in zip(*grown, strict=True)) < 300, f"kB: {grown}"


@pytest.mark.parametrize("which", [0, -1], ids=["the server", "its nursery"])
def test_what_is_killed_from_outside_takes_all_with_it_and_is_started_anew(which):
    with Judge(timeout=5.0) as judge:
        assert judge.judge(PROBLEM, Said(DOUBLE)).status == "correct"
        (server,) = judge._programs.idle
        processes = descendants(server.process.pid)
        os.kill(processes[which], signal.SIGKILL)
        assert judge.judge(PROBLEM, Said(f"{DOUBLE}  # again")).status == "correct"
        assert judge._programs.started == 2
        assert gone(processes)


def test_a_server_says_what_stands_around_its_programs(judge):
    assert judge.judge(PROBLEM, Said(DOUBLE)).status == "correct"
    assert judge.walls.startswith("Landlock ")
    assert ", seccomp, " in judge.walls
    assert judge.walls.endswith("namespaces") or "no namespaces (" in judge.walls


def test_refused_namespaces_are_said_and_the_other_walls_stand():
    server = Server(altered("server.namespaces._unshare = lambda *ids: 1"))
    assert server.layers.endswith("seccomp, no namespaces (Operation not permitted)")
    server.close()


def test_the_modules_programs_use_can_be_imported(judge):
    wanted = (
        "bisect collections datetime decimal fractions functools hashlib heapq itertools json math random re string"
    )
    code = f"import {', '.join(wanted.split())}\ndef f(x): return 2 * x"
    assert judge.judge(PROBLEM, Said(code)).status == "correct"


def test_a_missing_wall_is_named_before_anything_runs():
    kind = altered("server.selftest.ATTEMPTS['breathing'] = lambda: None")
    with pytest.raises(SandboxUnavailableError, match="a wall against breathing is missing on this machine"):
        Server(kind)


def test_a_machine_that_is_not_known_has_no_walls(monkeypatch):
    monkeypatch.setattr(walls.platform, "machine", lambda: "pdp11")
    with pytest.raises(walls.UnavailableError, match="pdp11"):
        walls.confine_calls()


def test_the_judge_says_so_before_sampling(monkeypatch):
    with Judge() as judge:
        judge.prepare([Problem(id="a", kind="answer", prompt="?", answer="1", source="s", split="test")])
        assert not judge._programs.idle, "answers need no sandbox"
        boot = "import os; os.write(1, b'unavailable Landlock\\n')"
        kind = Kind("program", Path("/"), ("-I", "-S", "-c", boot), inherit_environment=False)
        monkeypatch.setattr(judge, "_programs", Crew(kind))
        with pytest.raises(SandboxUnavailableError, match="Landlock is missing"):
            judge.prepare([PROBLEM])


def test_running_without_walls_is_stamped(tmp_path):
    (tmp_path / "secret").write_text("x")
    code = f"def f(x):\n    open({str(tmp_path / 'secret')!r}).read()\n    return 2 * x"
    with Judge(sandbox=Sandbox("none", accept_unsandboxed=True)) as judge:
        verdict = judge.judge(PROBLEM, Said(code))
        assert (verdict.status, verdict.isolation, judge.walls) == ("correct", "none", "none")
