"""The walls around programs: every attack is a program that passes its checks only if it got through."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from distill.errors import UserError
from distill.judge import Judge, Said, SandboxUnavailableError, programs
from distill.judge.judge import unsandboxed
from distill.judge.sandbox import walls
from distill.judge.servers import Crew, Kind, Server
from distill.records import Problem, Tests

DOUBLE = Tests(entry_point="f", check="def check(candidate):\n    assert candidate(2) == 4\n")
PROBLEM = Problem(id="p", kind="code", prompt="?", tests=DOUBLE, source="functions", split="test")
RAW = "import ctypes\ndef call(*n): assert ctypes.CDLL(None, use_errno=True).syscall(*n) >= 0\n"

ESCAPES = {
    "reads a file": "open('/etc/passwd').read()",
    "reads a secret": "open(SECRET).read()",
    "reads it by descriptor": "import os\nos.open(SECRET, os.O_RDONLY)",
    "reads it through a link in /proc": "open('/proc/self/root' + SECRET).read()",
    "reads its environment": "open('/proc/self/environ').read()",
    "reads the environment of its parent": "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
    "reads the memory of its parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "lists processes": "import os\nassert os.listdir('/proc')",
    "lists a home": "import os\nos.listdir(os.path.dirname(SECRET))",
    "maps a device": "import os\nos.open('/dev/mem', os.O_RDONLY)",
    "finds a key in the environment": "import os\nassert set(os.environ) - {'LC_CTYPE'}",
    "writes a file": "open(TARGET, 'w').write('x')",
    "makes an empty file": "import os\nos.open(TARGET, os.O_CREAT | os.O_WRONLY)",
    "appends to a file": "open(SECRET, 'a').write('x')",
    "truncates a file": "import os\nos.truncate(SECRET, 0)",
    "deletes a file": "import os\nos.unlink(SECRET)",
    "renames a file": "import os\nos.rename(SECRET, TARGET)",
    "links a file": "import os\nos.link(SECRET, TARGET)",
    "makes a symbolic link": "import os\nos.symlink(SECRET, TARGET)",
    "makes a folder": "import os\nos.mkdir(TARGET)",
    "makes a pipe with a name": "import os\nos.mkfifo(TARGET)",
    "changes rights": "import os\nos.chmod(SECRET, 0o777)",
    "changes an owner": "import os\nos.chown(SECRET, 1, 1)",
    "changes a time": "import os\nos.utime(SECRET)",
    "sets an extended attribute": "import os\nos.setxattr(SECRET, 'user.x', b'1')",
    "leaves a nameless file": "import os\nos.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "makes a memory file": "import os\nos.memfd_create('x')",
    "writes into the standard library": "import os\nopen(os.__file__, 'a').write('#')",
    "opens a TCP socket": "import socket\nsocket.socket().connect(('127.0.0.1', PORT))",
    "opens a UDP socket": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "opens a unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "opens a pair of sockets": "import socket\nsocket.socketpair()",
    "opens a raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "opens a netlink socket": "import socket\nsocket.socket(16, socket.SOCK_RAW)",
    "forks": "import os\nif os.fork() == 0: os._exit(0)",
    "forks as a daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "spawns": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "runs a program": "import os\nos.execv('/bin/true', ['true'])",
    "runs a shell": "import os\nassert os.system('true') == 0",
    "starts a subprocess": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "starts a thread": "import threading\nthreading.Thread(target=print).start()",
    "asks about its parent": "import os\nos.kill(os.getppid(), 0)",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "kills everyone": "import os\nos.kill(-1, 9)",
    "kills a group": "import os\nos.killpg(1, 9)",
    "has a signal sent by a pipe": "import os, fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "raises its file limit": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))",
    "raises its memory": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "takes CPU time from its parent": "import os, resource as r\nr.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1))",
    "becomes another user": "import os\nos.setuid(1)",
    "changes its root": "import os\nos.chroot('/tmp')",
    "changes its priority": "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "types into a terminal": "import fcntl\nfcntl.ioctl(1, 0x5412, b'x')",
    "traces its parent": RAW + "import os\ncall(101, 16, os.getppid(), 0, 0)",
    "reads its parent's memory": RAW + "import os\ncall(310, os.getppid(), 0, 0, 0, 0, 0)",
    "unshares": RAW + "call(272, 0x10000000)",
    "mounts": RAW + "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "makes a ring for asynchronous calls": RAW + "call(425, 1, b'\\0' * 120)",
    "loads a filter of its own": RAW + "call(321, 0, b'\\0' * 64, 64)",
    "takes a key": RAW + "call(250, 0, -3, 0)",
    "makes shared memory": RAW + "call(29, 1234, 4096, 0o1600)",
    "makes a message queue": RAW + "call(68, 1234, 0o1600)",
    "makes a socket by number": RAW + "call(41, 2, 1, 0)",
    "forks by number": RAW + "call(57)",
    "forks by the newest number": RAW + "call(435, b'\\0' * 88, 88)",
    "opens for writing by the newest number": RAW + "call(437, -100, TARGET.encode(), b'\\x41' + b'\\0' * 23, 24)",
    "calls by the other table": RAW + "call(0x40000000 + 41, 2, 1, 0)",
    "watches files": RAW + "call(253)",
    "counts the processor's events": RAW + "call(298, b'\\0' * 128, 0, -1, -1, 0)",
    "reboots": RAW + "call(169, 0xfee1dead, 672274793, 0x89ABCDEF, 0)",
    "sets the clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)",
    "takes a descriptor of another": RAW + "import os\ncall(434, os.getppid(), 0)",
}

FORGERIES = {
    "walks frames for a secret": """
import gc, sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, str) and len(value) == 32: tell(f'passed {value}')
        frame = frame.f_back
    for thing in gc.get_objects():
        if isinstance(thing, dict) and 'secret' in thing: tell(f"passed {thing['secret']}")
""",
    "says passed everywhere": "def f(x):\n    tell('passed ')\n    return 0",
    "sends frames of its own": """
import json, os
def f(x):
    data = json.dumps({'value': 4}).encode()
    for n in range(3, 32):
        try: os.write(n, len(data).to_bytes(4, 'big') + b'[' + data[1:])
        except OSError: pass
    return 0
""",
    "announces a giant frame": (
        "import os\n"
        "def f(x):\n"
        "    for n in range(3, 32):\n"
        "        try: os.write(n, b'\\xff' * 4)\n"
        "        except OSError: pass\n"
        ""
    ),
    "hangs up": "import os\ndef f(x): os.closerange(3, 32)",
    "changes what equal means": (
        "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return A(0)"
    ),
    "lies about its type": (
        "class A(int):\n    __class__ = int\n    def __eq__(self, other): return True\ndef f(x): return A(0)"
    ),
    "hides an equal object in a list": "class A:\n    def __eq__(self, other): return True\ndef f(x): return [A()]",
    "patches builtins": (
        "import builtins\n"
        "builtins.AssertionError = type('E', (Exception,), {})\n"
        "builtins.isinstance = lambda *a: True\n"
        "def f(x): return 0"
    ),
    "patches the encoder": (
        "import sys\n"
        "for m in list(sys.modules.values()):\n"
        "    if hasattr(m, 'encode') and hasattr(m, 'decode'): m.encode = lambda *a: {'any': 1}\n"
        "def f(x): return 0"
    ),
    "patches json": "import json\njson.dumps = lambda x: '{\"value\": true}'\ndef f(x): return 0",
    "brings its own check": "def check(candidate): pass\ndef f(x): return 0",
    "leaves with success": "import sys\ndef f(x): sys.exit(0)",
    "leaves at once": "import os\ndef f(x): os._exit(0)",
    "leaves while loading": "import os\nos._exit(0)",
    "registers an end": "import atexit\natexit.register(print, 'passed')\ndef f(x): return 0",
    "raises its way out": "def f(x): raise GeneratorExit",
    "raises what a check might catch": "def f(x): raise StopIteration",
    "names an exception that is none": "E = type('print', (Exception,), {})\ndef f(x): raise E('x')",
    "traces the checks": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0"
    ),
}
TELL = """
import os
def tell(text):
    for n in range(3, 32):
        try: os.write(n, text.encode() + b'\\n')
        except OSError: pass
"""

EXHAUSTIONS = {
    "memory": "x = [bytearray(1 << 20) for _ in range(1000)]",
    "memory in one piece": "x = bytearray(1 << 33)",
    "descriptors": "import os\nx = [os.pipe() for _ in range(100)]",
    "the stack": "g = lambda n: g(n + 1)\ng(0)",
    "a deep result": "x = []\nfor _ in range(10 ** 5): x = [x]\nreturn x",
    "a result that holds itself": "x = []\nx.append(x)\nreturn x",
    "the processor": "while True: pass",
    "the processor in one call": "return 9 ** 9 ** 9",
    "a pattern": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "time": "import time\ntime.sleep(600)",
    "output": "for _ in range(10 ** 5): print('x' * 100)\nreturn 0",
    "signals ignored": "import signal\nfor n in (1, 2, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
}


@pytest.fixture(scope="module")
def judge():
    with Judge(timeout=3.0) as judge:
        yield judge


@pytest.fixture
def port():
    """A listener that remembers whether anyone came."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        yield listener


def program(body, **names):
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    return f"{given}def f(x):\n{textwrap.indent(body, '    ')}\n    return 2 * x\n"


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_gets_out(judge, tmp_path, port, name):
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("s3cret")
    before = (secret.stat().st_mode, secret.stat().st_mtime_ns, threading.active_count())
    code = program(ESCAPES[name], SECRET=str(secret), TARGET=str(target), PORT=port.getsockname()[1])
    assert judge.judge(PROBLEM, Said(code)).status == "wrong"
    assert (secret.stat().st_mode, secret.stat().st_mtime_ns) == before[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    with pytest.raises(TimeoutError):
        port.accept()


@pytest.mark.parametrize("name", FORGERIES)
def test_no_verdict_is_forged(judge, name):
    found = judge.judge(PROBLEM, Said(TELL + FORGERIES[name]))
    assert (found.status, found.isolation) == ("wrong", "proxy"), found.why
    assert judge.judge(PROBLEM, Said("def f(x): return x + 2")).status == "correct"


@pytest.mark.parametrize("name", EXHAUSTIONS)
def test_nothing_is_used_up(name, monkeypatch):
    monkeypatch.setattr(programs, "CPU_SECONDS", 1)
    with Judge(timeout=2.0) as judge:
        assert judge.judge(PROBLEM, Said(program(EXHAUSTIONS[name]))).status in ("wrong", "timeout")
        assert judge.judge(PROBLEM, Said("def f(x): return 2 * x")).status == "correct"
        (server,) = judge._programs.idle
        assert children(server.process.pid) == []


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as lines:
        return lines.read().split()


def test_the_modules_programs_use_can_be_imported(judge):
    wanted = (
        "bisect collections datetime decimal fractions functools hashlib heapq itertools json math random re string"
    )
    code = f"import {', '.join(wanted.split())}\ndef f(x): return 2 * x"
    assert judge.judge(PROBLEM, Said(code)).status == "correct"


def test_a_missing_wall_is_named_before_anything_runs():
    boot = programs.BOOT.format(True).replace(
        "server.main", "server.selftest.ATTEMPTS['breathing'] = lambda: None; server.main"
    )
    kind = Kind("program", programs.SERVER.script, ("-I", "-S", "-c", boot), inherit_environment=False)
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
        kind = Kind("program", programs.SERVER.script, ("-I", "-S", "-c", boot), inherit_environment=False)
        monkeypatch.setattr(judge, "_programs", Crew(kind))
        with pytest.raises(SandboxUnavailableError, match="Landlock is missing"):
            judge.prepare([PROBLEM])


def test_running_without_walls_takes_two_words_and_is_stamped(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_SANDBOX", "none")
    with pytest.raises(UserError, match="DISTILL_ACCEPT_UNSANDBOXED=1"):
        Judge()
    monkeypatch.setenv("DISTILL_ACCEPT_UNSANDBOXED", "1")
    (tmp_path / "secret").write_text("x")
    with Judge() as judge:
        verdict = judge.judge(PROBLEM, Said(program("open(SECRET).read()", SECRET=str(tmp_path / "secret"))))
    assert (verdict.status, verdict.isolation) == ("correct", "none")


def test_an_unknown_sandbox_is_refused():
    with pytest.raises(UserError, match="DISTILL_SANDBOX=docker: expected none"):
        unsandboxed({"DISTILL_SANDBOX": "docker"})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_walls_stand_without_root():
    code = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox import server; print(server._missing() or 'held')"
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["-I", "-S", "-c", code, str(programs.SERVER.script)]
        with contextlib.suppress(PermissionError, FileNotFoundError):
            done = subprocess.run(
                [python, *command],
                capture_output=True,
                text=True,
                check=False,
                user=65534,
                group=65534,
                extra_groups=[],
            )
            assert done.stdout == "held\n", done.stderr
            return
    pytest.skip("no interpreter here that other users can run")
