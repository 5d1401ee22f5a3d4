"""Programs that read and print: fed and heard at once, compared as a contest would."""

import time

import pytest

from distill.judge import Judge, Said
from distill.judge.sandbox.exchanges import difference
from distill.records import Exchange, Problem, Tests

DOUBLE = (("2\n", "4\n"), ("5\n", "10\n"))


@pytest.fixture(scope="module")
def judge():
    with Judge(timeout=10.0) as judge:
        yield judge


def verdict(judge, code, cases=DOUBLE, setup=""):
    check = tuple(Exchange(stdin=stdin, stdout=stdout) for stdin, stdout in cases)
    tests = Tests(entry_point="", check=check, setup=setup)
    return judge.judge(Problem(id="p", kind="code", prompt="?", tests=tests, source="s", split="test"), Said(code))


READS = {
    "input": "print(2 * int(input()))",
    "stdin whole": "import sys\nprint(2 * int(sys.stdin.read()))",
    "stdin by line": "import sys\nfor line in sys.stdin: print(2 * int(line))",
    "stdin as bytes": "import sys\nprint(2 * int(sys.stdin.buffer.readline()))",
    "the descriptor": "import os\nos.write(1, str(2 * int(os.read(0, 99))).encode())",
    "the descriptor opened": "print(2 * int(open(0).read()))",
    "the device": "print(2 * int(open('/dev/stdin').read()))",
    "main": "def main(): print(2 * int(input()))\nif __name__ == '__main__': main()",
    "main by its name": "import __main__\nx = 2 * int(input())\nprint(__main__.x)",
    "leaves with 0": "import sys\nprint(2 * int(input()))\nsys.exit(0)",
    "leaves with nothing": "print(2 * int(input()))\nexit()",
    "leaves at once": "import os\nprint(2 * int(input()), flush=True)\nos._exit(0)",
    "prints at the end": "import atexit\nx = int(input())\natexit.register(lambda: print(2 * x))",
    "never closes its file": "out = open(1, 'w')\nout.write(str(2 * int(input())))",
    "replaces stdout": "import io, os, sys\nb = io.StringIO()\nsys.stdout = b\nprint(2 * int(input()))\n"
    "os.write(1, b.getvalue().encode())",
    "a future import": "from __future__ import annotations\nprint(2 * int(input()))",
    "stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(2 * int(input()))",
    "a fence in its text": 'x = """\n```\nprint(3)\n```\n"""\nprint(2 * int(input()))',
    "a fenced program": "So:\n```python\nprint(1)\n```\nno,\n```python\nprint(2 * int(input()))\n```\n",
    "behind a thought": "<think> double </think>\nprint(2 * int(input()))",
}


@pytest.mark.parametrize("name", READS)
def test_it_reads_and_prints(judge, name):
    found = verdict(judge, READS[name])
    assert (found.status, found.isolation) == ("correct", "proxy"), found.why


WRONG = {
    "wrong on the second": ("print(4)", "case 2: line 1: '4' where '10' was expected"),
    "nothing": ("pass", "case 1: line 1: '' where '4' was expected"),
    "too much": ("print(2 * int(input()))\nprint('x')", "case 1: 2 lines where 1 were expected"),
    "raises": ("print(2 * int(input()))\n1 / 0", "case 1: ZeroDivisionError: division by zero"),
    "raises half a character": ("raise ValueError('\\ud800')", "case 1: ValueError: ?"),
    "prints half a character": ("import os\nos.write(1, b'\\xed\\xa0\\x80')", "where '4' was expected"),
    "lies about what it raised": (
        "import json, os\nf = json.dumps({'error': ['x'], 'said': {}}).encode()\n"
        "for n in range(3, 32):\n    try: os.write(n, len(f).to_bytes(4, 'big') + f)\n    except OSError: pass\n"
        "exit(1)",
        "case 1: ['x']: {}",
    ),
    "reads on": ("print(2 * int(input()))\ninput()", "case 1: EOFError"),
    "exit status": ("print(2 * int(input()))\nexit(3)", "case 1: exit status 3"),
    "leaves with words": ("print(2 * int(input()))\nexit('no')", "case 1: exit status 1"),
    "dies": ("import ctypes\nctypes.string_at(0)", "case 1: ended by SIGSEGV"),
    "does not compile": ("print(", "case 1: SyntaxError"),
    "is too large": (f"print(2 * int(input())){' ' * (9 << 20)}#", "case 1: exit status 1"),
    "floods": ("while True: print('x' * 99)", "case 1: more than "),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_wrong_and_says_where(judge, name):
    code, said = WRONG[name]
    found = verdict(judge, code)
    assert (found.status, said in found.why) == ("wrong", True), found.why


SAME = {
    "white space at ends of lines": ("1 2 \n3\t\n", "1 2\n3"),
    "empty lines at the end": ("1\n\n\n", "1"),
    "windows lines": ("1\r\n2\r\n", "1\n2\n"),
    "zeros": ("2.50", "2.5"),
    "an exponent": ("1e3", "1000"),
    "a sign": ("+5", "5"),
    "numbers spaced": ("1  2", "1 2"),
    "a number among words": ("Case 1: 2.50", "Case 1: 2.5"),
    "nothing": ("\n", ""),
}
DIFFERENT = {
    "a rounded number": ("0.30000000000000004", "0.3"),
    "beyond a float": ("9007199254740993", "9007199254740992"),
    "an empty line first": ("\n1", "1"),
    "an empty line between": ("1\n\n2", "1\n2"),
    "another order": ("2 1", "1 2"),
    "a word": ("yes", "Yes"),
    "layout of a picture": ("*\n ***", " *\n***"),
    "two lines in one": ("1 2", "1\n2"),
    "no decimal": ("1_000", "1000"),
    "no number": ("nan", "NaN"),
    "another alphabet": ("\u0664", "4"),
    "a prefix": ("1 2", "1 2 3"),
}


@pytest.mark.parametrize("name", SAME)
def test_outputs_agree(name):
    assert difference(*SAME[name]) == ""
    assert difference(*reversed(SAME[name])) == ""


@pytest.mark.parametrize("name", DIFFERENT)
def test_outputs_differ(name):
    assert difference(*DIFFERENT[name]) != ""
    assert difference(*reversed(DIFFERENT[name])) != ""


def test_a_long_difference_is_shortened():
    assert len(difference("x" * 10_000, "y" * 10_000)) < 200


def test_much_in_and_much_out_at_once_does_not_wait_for_itself(judge):
    text = "".join(f"{number}\n" for number in range(300_000))
    code = "import sys\nfor line in sys.stdin: sys.stdout.write(line)"
    assert verdict(judge, code, [(text, text)]).status == "correct"


def test_stdin_that_is_never_read_is_no_fault(judge):
    assert verdict(judge, "print(1)", [("x" * 1_000_000, "1")]).status == "correct"


def test_text_is_utf_8(judge):
    assert verdict(judge, "print(input()[::-1])", [("äβ漢\n", "漢βä\n")]).status == "correct"


def test_every_case_starts_afresh(judge):
    code = "import os\nprint(len(os.environ) < 3 and 'seen' not in dir(os))\nos.seen = 1"
    assert verdict(judge, code, [("", "True"), ("", "True")]).status == "correct"


def test_setup_runs_before(judge):
    assert verdict(judge, "print(double(int(input())))", setup="def double(x): return 2 * x").status == "correct"


def test_all_cases_share_one_deadline():
    with Judge(timeout=0.6) as judge:
        begun = time.monotonic()
        found = verdict(judge, "import time\ntime.sleep(0.25)\nprint(input())", [("1", "1")] * 9)
    assert (found.status, found.why[:7]) == ("timeout", "case 3:")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("cases", [[("1", "")], [("1", " \n"), ("2", "")]])
def test_cases_that_expect_nothing_judge_nothing(judge, cases):
    assert verdict(judge, "pass", cases).status == "gold_bad"
