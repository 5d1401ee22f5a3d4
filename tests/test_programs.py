"""Programs: right ones pass, wrong and hostile ones do not, and nothing they do lasts."""

import time

import pytest

from distill.judge import Judge, Said, programs
from distill.judge.programs import candidate_source
from distill.records import Problem, Tests

DOUBLE = Tests(
    entry_point="f",
    check="def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n",
    prefix="def f(x):\n    ",
)
WHOLE = DOUBLE.model_copy(update={"prefix": ""})


@pytest.fixture(scope="module")
def judge():
    with Judge(timeout=20.0) as judge:
        yield judge


def verdict(judge, code, tests=DOUBLE):
    row = Problem(id="p", kind="code", prompt="?", tests=tests, source="functions", split="test")
    return judge.judge(row, Said(code))


WRITES_EVERYWHERE = """import os
    for pipe in range(3, 32):
        try:
            os.write(pipe, b'passed 0\\n')
        except OSError:
            pass"""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param("return x * 2", "correct", id="body"),
        pytest.param("<think> double it ; </think> return ( x * 2 )", "correct", id="body behind a thought"),
        pytest.param("```python\nreturn x * 2\n```", "correct", id="fenced body"),
        pytest.param("def f(x):\n    return x + x", "correct", id="the whole function instead"),
        pytest.param("Sure:\n```python\ndef f(x):\n    return x + x\n```\nDone.", "correct", id="fenced function"),
        pytest.param(
            "```\nf(1)\n```\n```python\ndef f(x):\n    return x + x\n```", "correct", id="the block that matters"
        ),
        pytest.param("```python\nreturn x * 2", "correct", id="a fence that never closes"),
        pytest.param("return x * 3", "wrong", id="wrong"),
        pytest.param("return x if x == 4 else 4", "wrong", id="right on one input"),
        pytest.param("return (x *", "wrong", id="syntax error"),
        pytest.param("pass", "wrong", id="stub"),
        pytest.param("return y", "wrong", id="name error"),
        pytest.param("raise SystemExit(0)", "wrong", id="leaves with status 0"),
        pytest.param("import os; os._exit(0)", "wrong", id="leaves at once"),
        pytest.param("print('passed')", "wrong", id="prints what it likes"),
        pytest.param(
            WRITES_EVERYWHERE,
            "wrong",
            id="writes to every pipe",
        ),
        pytest.param("return f(x)", "wrong", id="endless recursion"),
        pytest.param("return [0] * 10**10", "wrong", id="memory"),
        pytest.param("return (" * 5000, "wrong", id="deep nesting"),
        pytest.param("return '\x00'", "wrong", id="null byte"),
        pytest.param("return '\ud800'", "wrong", id="lone surrogate"),
    ],
)
def test_a_program_is_judged(judge, code, status):
    assert verdict(judge, code).status == status


ALWAYS_EQUAL = "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(1)"
EQUAL_INSIDE = "class A:\n    def __eq__(self, other): return True\ndef f(x): return [A()]"


@pytest.mark.parametrize("code", [ALWAYS_EQUAL, EQUAL_INSIDE])
def test_a_result_that_equals_everything_is_no_result(judge, code):
    found = verdict(judge, code, WHOLE)
    assert found.status == "wrong"
    assert "plain data" in found.why


def test_a_program_that_lacks_the_function_is_wrong(judge):
    found = verdict(judge, "def g(x):\n    return 2 * x", WHOLE)
    assert (found.status, "defines no f" in found.why) == ("wrong", True)


def test_a_program_cannot_bring_its_own_check(judge):
    assert verdict(judge, "def check(candidate): pass\ndef f(x): return 0", WHOLE).status == "wrong"


@pytest.fixture
def one_second(monkeypatch):
    monkeypatch.setattr(programs, "CPU_SECONDS", 1)


def test_a_program_that_never_ends_times_out_on_cpu_time(judge, one_second):
    begun = time.monotonic()
    assert verdict(judge, "while True: pass").status == "timeout"
    assert time.monotonic() - begun < 15


def test_a_program_that_sleeps_times_out_on_the_clock():
    with Judge(timeout=0.5) as judge:
        assert verdict(judge, "import time; time.sleep(60)").status == "timeout"


def test_a_program_that_catches_its_own_end_times_out_too(judge, one_second):
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef f(x):\n    while True: pass"
    assert verdict(judge, code, WHOLE).status == "timeout"


def test_one_program_leaves_nothing_to_the_next(judge):
    verdict(judge, "import builtins\nbuiltins.len = lambda x: 4\ndef f(x): return 0", WHOLE)
    assert verdict(judge, "def f(x): return 2 * x + len('')", WHOLE).status == "correct"


def test_a_program_cannot_write_files(judge, tmp_path):
    path = tmp_path / "written"
    verdict(judge, f"open({str(path)!r}, 'w').write('x' * 10)")
    assert not path.exists() or path.read_text() == ""


def test_a_program_does_not_see_our_environment(judge, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    with Judge() as fresh:
        assert (
            verdict(fresh, "import os\ndef f(x): return 2 * x if 'API_KEY' not in os.environ else 0", WHOLE).status
            == "correct"
        )


def test_a_program_cannot_kill_its_server(judge):
    found = verdict(judge, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef f(x): return 2 * x", WHOLE)
    assert (found.status, "PermissionError" in found.why) == ("wrong", True)
    assert verdict(judge, "return 2 * x").status == "correct"


def test_asserts_are_run_as_statements_in_order(judge):
    tests = Tests(entry_point="f", check=("import math", "k = f(2)", "assert k == 4 and math.pi > 3"))
    assert verdict(judge, "def f(x): return x * x", tests).status == "correct"
    assert verdict(judge, "def f(x): return x + 1", tests).status == "wrong"


def test_the_same_program_is_run_once(judge):
    row = Problem(id="p", kind="code", prompt="?", tests=DOUBLE, source="functions", split="test")
    with Judge() as fresh:
        pairs = [(row, Said("return x * 2"))] * 500
        assert {found.status for found in fresh.judge_many(pairs)} == {"correct"}
        assert len(fresh._rulings) == 1


def test_a_program_that_ran_says_how_it_was_kept_apart(judge):
    assert verdict(judge, "return x * 2").isolation == "proxy"
    assert verdict(judge, "<think> never ends").isolation is None


CROSSINGS = {
    "an argument changed in place": ("def f(x): x.append(3)", "v = [1]\nf(v)\nassert v == [1, 3]"),
    "a dict changed in place": ("def f(x): x['b'] = 2", "v = {'a': 1}\nf(v)\nassert v == {'a': 1, 'b': 2}"),
    "an exception": ("def f(x): raise ValueError('no')", "try: f(1)\nexcept ValueError as e: assert str(e) == 'no'"),
    "a generator": ("def f(x): yield from range(x)", "assert list(f(3)) == [0, 1, 2]"),
    "a counter": ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
    "a huge integer": ("def f(x): return 7 ** x", "assert f(9000) == 7 ** 9000"),
    "nested data": ("def f(x): return x", "v = [(1, 2.5, None), {3: b'x'}, {4}, 1j, range(3)]\nassert f(v) == v"),
    "not a number": ("def f(x): return float('nan')", "assert f(1) != f(1)"),
    "two functions": ("def g(x): return x\ndef f(x): return 2 * x", "assert f(g(2)) == 4"),
    "a keyword": ("def f(x, y=1): return x + y", "assert f(1, y=5) == 6"),
    "a module of the program's": ("import math\ndef f(x): return x", "assert f(math.pi) == math.pi"),
    "the name of a builtin": ("def sum(x): return 2 * x\nf = sum", "assert f(2) == 4"),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_it_crosses_between_checks_and_program(judge, name):
    code, check = CROSSINGS[name]
    found = verdict(judge, code, Tests(entry_point="f", check=(check,)))
    assert (found.status, found.isolation) == ("correct", "proxy"), found.why


@pytest.mark.parametrize(
    ("code", "check"),
    [
        pytest.param("class Pair: pass\ndef f(x): return isinstance(x, Pair)", "assert f(Pair())", id="its class"),
        pytest.param("def f(g): return g(2)", "assert f(lambda x: 2 * x) == 4", id="a function handed over"),
    ],
)
def test_checks_that_cannot_cross_run_beside_the_program(judge, code, check):
    found = verdict(judge, code, Tests(entry_point="f", check=(check,)))
    assert (found.status, found.isolation) == ("correct", "in-process"), found.why


def test_a_program_cannot_choose_to_run_beside_its_checks(judge):
    found = verdict(judge, "class f:\n    def __new__(self, x): return object()", WHOLE)
    assert (found.status, found.isolation) == ("wrong", "proxy")


SETUPS = {
    "imports for both": ("import math", "def f(x): return math.floor(x)", "assert f(math.pi) == 3", "proxy"),
    "a helper for both": (
        "def half(x): return x / 2",
        "def f(x): return half(x) + 1",
        "assert f(4) == half(6)",
        "proxy",
    ),
    "a class for both": (
        "class P:\n    def __init__(self, x): self.x = x",
        "def f(p): return p.x",
        "assert f(P(2)) == 2",
        "in-process",
    ),
    "a stub the program replaces": ("def f(x): pass", "def f(x): return x", "assert f(2) == 2", "proxy"),
    "before a future import": (
        "x = 1",
        "from __future__ import annotations\ndef f(y): return x",
        "assert f(2) == 1",
        "proxy",
    ),
    "a constant": ("N = 7", "def f(x): return x % N", "assert f(N + 1) == 1", "proxy"),
}


@pytest.mark.parametrize("name", SETUPS)
def test_setup_runs_before_program_and_checks(judge, name):
    setup, code, check, isolation = SETUPS[name]
    found = verdict(judge, code, Tests(entry_point="f", check=(check,), setup=setup))
    assert (found.status, found.isolation) == ("correct", isolation), found.why


def test_a_program_cannot_replace_what_the_setup_gives_the_checks(judge):
    tests = Tests(entry_point="f", check=("assert close(f(2), 4)",), setup="def close(a, b): return abs(a - b) < 1e-9")
    assert verdict(judge, "def close(a, b): return True\ndef f(x): return 5", tests).status == "wrong"
    assert verdict(judge, "def f(x): return x + x", tests).status == "correct"


def test_a_setup_that_does_not_compile_is_the_golds_fault(judge):
    found = verdict(judge, "def f(x): return 4", WHOLE.model_copy(update={"setup": "import ("}))
    assert (found.status, "setup does not compile" in found.why) == ("gold_bad", True)


def test_a_fence_in_a_text_of_the_program_is_no_fence(judge):
    whole = 'def f(x):\n    """Double.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2 * x\n'
    assert verdict(judge, whole, WHOLE).status == "correct"
    body = DOUBLE.model_copy(update={"prefix": PROMPT})
    assert verdict(judge, '    """\n    ```\n    x\n    ```\n    """\n    return 2 * x\n', body).status == "correct"


def test_a_match_of_a_pattern_is_true_and_has_its_texts(judge):
    tests = Tests(entry_point="f", check=("assert f('a1')", "assert not f('1')", "assert f('b2').group(1) == '2'"))
    assert verdict(judge, "import re\ndef f(x): return re.match('[ab](.)', x)", tests).status == "correct"


PROMPT = 'def f(x):\n    """Double x."""\n'


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param("return x * 2", "    return x * 2\n", id="a base model's indentation is in the text"),
        pytest.param("return x * 2", "<think> t </think> return x * 2", id="lost behind a thought"),
        pytest.param("y = x\n    return y * 2", "    y = x\n    return y * 2\n", id="two lines"),
        pytest.param("y = x\n    return y * 2", "<think> t </think> y = x\n    return y * 2", id="first line lost"),
    ],
)
def test_a_body_continues_the_prompt(answer, text):
    space = {}
    exec(candidate_source(DOUBLE.model_copy(update={"prefix": PROMPT}), answer, text), space)
    assert space["f"](4) == 8


def test_a_whole_function_may_use_what_the_prompt_defines():
    prefix = "from math import floor\n\ndef g(x):\n    return 2 * x\n\ndef f(x):\n    '''Double x.'''\n"
    source = candidate_source(DOUBLE.model_copy(update={"prefix": prefix}), "def f(x):\n    return floor(g(x))", "...")
    space = {}
    exec(source, space)
    assert space["f"](4) == 8


def test_a_hundred_programs_take_less_than_a_second_of_this_process(judge):
    begun = time.process_time()
    row = Problem(id="p", kind="code", prompt="?", tests=DOUBLE, source="functions", split="test")
    pairs = [(row, Said(f"return x * 2 + {number} - {number}")) for number in range(100)]
    assert {found.status for found in judge.judge_many(pairs)} == {"correct"}
    assert time.process_time() - begun < 1.0


@pytest.mark.data
def test_mbpps_gold_solutions_pass(data_dir, monkeypatch):
    """One takes 2 of the 3 CPU seconds programs have, and more where other work shares the core."""
    from distill.problems.benchmarks import load_benchmark

    monkeypatch.setattr(programs, "CPU_SECONDS", 10)
    for name, count in (("mbpp", 974), ("mbpp_sanitized", 427)):
        rows = [*load_benchmark(name, "train", data_dir), *load_benchmark(name, "test", data_dir)]
        with Judge(timeout=30.0) as judge:
            failed = [
                (row.id, found.why)
                for row, found in zip(rows, judge.judge_many((row, Said(row.solution)) for row in rows), strict=True)
                if found.status != "correct"
            ]
        assert (len(rows), failed) == (count, [])


@pytest.mark.data
def test_humanevals_canonical_solutions_pass_and_stubs_fail(data_dir):
    from distill.problems.benchmarks import load_benchmark

    rows = load_benchmark("humaneval", "test", data_dir)
    with Judge(timeout=30.0) as judge:
        solved = [found.status for found in judge.judge_many((row, Said(row.solution)) for row in rows)]
        stubs = [found.status for found in judge.judge_many((row, Said("    pass\n")) for row in rows)]
    assert len(rows) == 164
    assert set(solved) == {"correct"}
    assert set(stubs) == {"wrong"}
