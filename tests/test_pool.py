"""The judge's child processes: watched, replaced, and at home in threads, forks, notebooks and event loops."""

import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time

import pytest

from distill.judge import Judge, Said
from distill.judge import servers as servers_module
from distill.judge.algebra import server
from distill.records import Problem

GOLD, EQUAL, OTHER = r"\log 100", r"\boxed{2}", r"\boxed{3}"
"""Two closed forms that only computer algebra finds equal."""


def problem(answer=GOLD, name="p"):
    return Problem(id=name, kind="answer", prompt="?", answer=answer, source="math", split="test")


@pytest.fixture(scope="module")
def judge():
    with Judge() as judge:
        judge.judge(problem(), Said(EQUAL))
        yield judge


def statuses(judge, count=4):
    pairs = [(problem(name=str(n)), Said(f"{EQUAL if n % 2 else OTHER} {n}")) for n in range(count)]
    return [verdict.status for verdict in judge.judge_many(pairs)]


EXPECTED = ["wrong", "correct", "wrong", "correct"]


def test_many_threads_share_one_judge(judge):
    found = {}

    def work(number):
        found[number] = statuses(judge)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [EXPECTED] * 8


def test_under_an_event_loop_it_is_called_directly_or_in_threads(judge):
    async def main():
        direct = statuses(judge)
        return [direct, *await asyncio.gather(*(asyncio.to_thread(statuses, judge) for _ in range(3)))]

    assert asyncio.run(main()) == [EXPECTED] * 4


def in_child(judge, results):
    results.put((statuses(judge), judge._algebra.started))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_made_by(method, judge):
    """Python 3.12 warns of forking with threads alive, which is what is tested here."""
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=in_child, args=(judge, results))
    child.start()
    found, started = results.get()
    child.join()
    assert (found, child.exitcode) == (EXPECTED, 0)
    assert started > 0, "it starts servers of its own"
    assert statuses(judge) == EXPECTED, "and leaves the parent's alone"


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_works_inside_datasets_map(processes, judge):
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"gold": [GOLD, "12"] * 4, "said": [EQUAL, "13"] * 4})
    judged = rows.map(
        lambda row: {"status": judge.judge(problem(row["gold"]), Said(row["said"])).status}, num_proc=processes
    )
    assert judged["status"] == ["correct", "wrong"] * 4


CELL = """
from distill.judge import Judge, Said
from distill.records import Problem
row = Problem(id='p', kind='answer', prompt='?', answer=r'GOLD', source='math', split='test')
async def ask():
    with Judge() as judge:
        return judge.judge(row, Said(r'EQUAL')).status
print(await ask())
""".replace("GOLD", GOLD).replace("EQUAL", EQUAL)


def test_it_works_in_a_jupyter_kernel():
    """Run in a process of its own: the client leaves sockets to the garbage collector."""
    code = (
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel(kernel_name='python3')\n"
        "client.execute_interactive(CELL, timeout=60)\n"
        "client.stop_channels(); manager.shutdown_kernel(now=True)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", f"CELL = {CELL!r}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "correct", done.stderr


def test_a_judge_that_is_pickled_keeps_its_settings():
    import pickle

    with Judge(workers=3, timeout=7.0) as judge, pickle.loads(pickle.dumps(judge)) as copy:
        assert (copy.workers, copy.timeout, copy.sandbox) == (3, 7.0, judge.sandbox)


def dies(text, **_):
    os._exit(3)


def hogs(text, **_):
    return bytearray(4 << 30)


def computes(text, **_):
    return pow(7, 10**9)  # one call into C, which no Python signal handler can interrupt


def sleeps(text, **_):
    time.sleep(60)


def asked(parse, seconds=20.0):
    child = server.Child(parse, lambda *_, **__: True)
    question = {"gold": "g", "said": "s", "gold_unread": "gold_bad", "said_unread": "unparsed", "equal": "correct"}
    question["seconds"] = seconds
    begun = time.monotonic()
    answer = child.put(json.dumps(question).encode() + b"\n", seconds)
    return child, answer, time.monotonic() - begun


def test_a_child_that_dies_gives_no_answer():
    _, answer, _ = asked(dies)
    assert answer is None


def test_a_child_is_ended_by_the_kernel_at_its_cpu_limit():
    _, answer, seconds = asked(computes)
    assert answer == {"status": "timeout", "why": "no answer within 0.9 CPU s"}
    assert seconds < 15


def test_a_child_that_sleeps_is_ended_at_the_deadline():
    _, answer, seconds = asked(sleeps, 0.3)
    assert answer == {"status": "timeout", "why": "no answer within 0.3 s"}
    assert seconds < 5


def test_a_child_cannot_outgrow_its_memory():
    child, answer, _ = asked(hogs)
    assert (answer["status"], "MemoryError" in answer["why"]) == ("undecided", True)
    child.end()


FAKE = (
    "import sys; sys.path.insert(0, {folder!r}); from distill.judge.algebra import server\n"
    "import os, math_verify\n"
    "server.ANSWERS_PER_CHILD = 2\n"
    "def parse(text, **_):\n"
    "    if 'dies' in text: os._exit(1)\n"
    "    if 'pid' in text: raise ValueError(os.getpid())\n"
    "    return [1]\n"
    "math_verify.parse, math_verify.verify = parse, lambda *a, **k: True\n"
    "server.serve()\n"
)


@pytest.fixture
def crew(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(FAKE.format(folder=os.getcwd()))
    crew = servers_module.Crew(servers_module.Kind("test", script, (), inherit_environment=True))
    yield crew
    crew.close()


def ask(crew, said):
    question = {"gold": f"g{said}", "said": said, "gold_unread": "x", "said_unread": "y", "equal": "correct"}
    question["seconds"] = 10.0
    return crew.ask(question, 20)


def test_a_crash_costs_one_retry_and_then_a_typed_verdict(crew):
    assert ask(crew, "dies") == {"status": "undecided", "why": "took down the algebra server twice"}
    assert ask(crew, "fine")["status"] == "correct"
    assert crew.started == 1, "the server itself lives on"


def test_children_are_replaced_after_some_answers(crew):
    seen = [ask(crew, f"pid {number}")["why"] for number in range(6)]
    assert [seen[0] == seen[1], seen[1] == seen[2], seen[2] == seen[3], seen[4] == seen[5]] == [True, False, True, True]


def test_servers_are_replaced_after_many_questions(crew, monkeypatch):
    monkeypatch.setattr(servers_module, "QUESTIONS_PER_SERVER", 2)
    for number in range(5):
        assert ask(crew, str(number))["status"] == "correct"
    assert crew.started == 3


def test_a_server_that_does_not_read_cannot_hold_the_asker(tmp_path):
    script = tmp_path / "server.py"
    script.write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    crew = servers_module.Crew(servers_module.Kind("test", script, (), inherit_environment=True))
    begun = time.monotonic()
    with pytest.raises(servers_module.LateError):
        crew.ask({"text": "x" * (1 << 20)}, 0.5)
    assert time.monotonic() - begun < 10


def test_slow_ones_do_not_hold_up_more_than_a_window(judge, monkeypatch):
    """Back-pressure: the judge reads ahead, but not without bound."""
    from distill.judge import judge as judge_module

    monkeypatch.setattr(judge_module, "AHEAD", 4)
    read = []

    def pairs():
        for number in range(1000):
            read.append(number)
            yield problem(f"\\sqrt{{{number}+2\\sqrt{{{number - 1}}}}}"), Said(f"\\boxed{{1+\\sqrt{{{number - 1}}}}}")

    first = next(iter(judge.judge_many(pairs())))
    assert first.status == "correct" or first.status == "undecided"
    assert len(read) <= 4 * judge.workers + 1


HOSTILE = {
    "tower": "10^{10^{10}}",
    "tower of nines": "9^9^9^9",
    "factorial": "(10^8)!",
    "factorial of a factorial": "((9!)!)!",
    "giant sum": r"\sum_{k=1}^{10^7} k^k",
    "giant product": r"\prod_{k=1}^{10^7} k",
    "integral": r"\int_0^1 x^{x^x} dx",
    "mersenne": "2^{1000000007}-1",
    "long digits": "7" * 100_000,
    "long decimals": "0." + "7" * 100_000,
    "long sum": "+".join(["1"] * 50_000),
    "deep braces": "{" * 5000 + "x" + "}" * 5000,
    "deep fractions": r"\frac{1}{" * 2000 + "x" + "}" * 2000,
    "deep roots": r"\sqrt{1+" * 100 + "x" + "}" * 100,
    "deep parentheses": "(" * 5000 + ")" * 5000,
    "a large set": r"\{" + ",".join(map(str, range(3000))) + r"\}",
    "a power of a sum": "(a+b+c+d)^{64}",
    "powers of sums": "((((a+b)^8+c)^8+d)^8+f)^8",
    "a product of sums": "".join(f"(a_{n}+b_{n})" for n in range(30)),
    "a sum of roots": "+".join(rf"\sqrt{{{n}+\sqrt{{x+{n}}}}}" for n in range(15)),
    "large primes": r"\sqrt{" + "+".join(str(10**15 + n) for n in range(20)) + "}",
    "fractions of large numbers": "+".join(rf"\frac{{1}}{{{10**12 + n}}}" for n in range(18)),
    "binomial": r"\binom{10^9}{10^8}",
    "exponents of exponents": "2^{3^{4^{5}}}",
    "functions of functions": r"\sin" * 60 + " x",
    "a megabyte": "x+" * (1 << 19),
    "a megabyte of words": "word " * 200_000,
    "dollar signs": "$" * 100_000,
    "backslashes": "\\" * 100_001,
    "plus-minus": r"1" + r"\pm 1" * 60,
    "matrix": r"\begin{pmatrix}" + r" & ".join(["1"] * 150) + r"\end{pmatrix}",
    "unions": r" \cup ".join(f"({n},{n + 1})" for n in range(60)),
    "factorial of a variable": "n!" + "!" * 50,
    "nested intervals": "[" * 50 + "1,2" + "]" * 50,
}
"""Completions meant to hang or bloat a grader."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mathematics_is_answered_in_two_seconds(judge, name):
    for gold, said in (("5", HOSTILE[name]), (HOSTILE[name], "5"), (HOSTILE[name], HOSTILE[name] + " + 1")):
        begun = time.monotonic()
        verdict = judge.judge(problem(gold), Said(f"so \\boxed{{{said}}}"))
        assert time.monotonic() - begun < 2.0, verdict
        assert verdict.status != "correct"


def test_hostile_mathematics_leaves_memory_flat(judge):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        for said in HOSTILE.values():
            judge.judge(problem("5"), Said(f"\\boxed{{{said}}}"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
