"""The judge: seven different facts kept apart, order kept, nothing started that is not needed."""

import random
import subprocess
import sys
import time

import pytest

from distill.judge import JUDGE_VERSION, Judge, JudgeError, Said
from distill.judge.servers import Crew, Kind, LateError
from distill.problems.families import FAMILIES, family
from distill.prompts import join_thought, to_trace
from distill.records import Completion, Params, Problem, SamplerId
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Request


@pytest.fixture(scope="module")
def judge():
    with Judge(timeout=20.0) as judge:
        yield judge


def problem(answer="12", **changed):
    fields = {"id": "p", "kind": "answer", "prompt": "?", "answer": answer, "source": "math", "split": "test"}
    return Problem(**{**fields, **changed})


def trace(text, finish="stop", think_open=False, id="t"):
    said = Completion(text=text, finish=finish, prompt_tokens=1, completion_tokens=1)
    who, params = SamplerId(name="s", revision="1"), Params(max_tokens=9)
    where = {"id": id, "problem_id": "p", "sampler": who, "params": params, "sample_index": 0}
    return to_trace(said, think_open=think_open, **where)


@pytest.mark.parametrize(
    ("text", "finish", "think_open", "status"),
    [
        pytest.param("<think> 7 + 5 </think> 12", "stop", False, "correct", id="thought and answer"),
        pytest.param("12", "stop", False, "correct", id="answer alone"),
        pytest.param("7 + 5 </think> 12", "stop", True, "correct", id="prompt opened the thought"),
        pytest.param("7 + 5 </think> 12", "stop", False, "correct", id="a lone closing tag ends a thought"),
        pytest.param("<think> 12 </think> 13", "stop", False, "wrong", id="right only in the thought"),
        pytest.param("<think> \\boxed{12}", "stop", False, "unparsed", id="thought never ends"),
        pytest.param("\\boxed{12}", "stop", True, "unparsed", id="opened by the prompt, never ends"),
        pytest.param("<think> \\boxed{12}", "length", False, "truncated", id="cut in the thought"),
        pytest.param("<think> 12 </think>", "stop", False, "unparsed", id="nothing behind the thought"),
        pytest.param("<think> 12 </think>", "length", False, "truncated", id="cut behind the thought"),
        pytest.param("<think> a </think> 12", "length", False, "truncated", id="a cut number may be half a number"),
        pytest.param("<think> a </think> \\boxed{12} and", "length", False, "correct", id="boxed before the cut"),
        pytest.param("<think> a </think> #### 12", "length", False, "truncated", id="a cut number behind hashes"),
        pytest.param("the answer is 12", "length", False, "truncated", id="a cut number behind a phrase"),
        pytest.param("the answer is 12. And", "length", False, "correct", id="a sentence that ended before the cut"),
        pytest.param("<think> a </think> x <think> 12", "stop", False, "unparsed", id="answer in a second thought"),
        pytest.param("<think> a </think> no idea", "stop", False, "unparsed", id="no number said"),
        pytest.param("", "stop", False, "unparsed", id="nothing said"),
    ],
)
def test_a_number_is_judged(judge, text, finish, think_open, status):
    verdict = judge.judge(problem(), trace(text, finish, think_open))
    assert verdict.status == status
    assert judge.judge(problem(), Said(text, finish, think_open)).status == status


def test_a_verdict_carries_what_was_compared(judge):
    verdict = judge.judge(problem("12"), trace("the answer is 13.", id="trace-7"))
    found = (verdict.trace_id, verdict.extracted, verdict.expected, verdict.judge_version, verdict.isolation)
    assert found == ("trace-7", "13", "12", JUDGE_VERSION, None)


@pytest.mark.parametrize(
    ("gold", "said", "status"),
    [
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", "correct"),
        ("x^2+2x+1", "(x+1)^2", "correct"),
        ("(1,2)", "(1, 3)", "wrong"),
        (r"\{1,2\}", r"\{2,1\}", "correct"),
        ("[0,1)", "[0,1]", "wrong"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "wrong"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", "wrong"),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", "correct"),
        (r"\tan x", r"\frac{\sin x}{\cos x}", "correct"),
        (r"\frac{\pi}{2}", "1.570796326794897", "wrong"),
        (r"2\cos 15^\circ", r"\frac{\sqrt6+\sqrt2}{2}", "correct"),
        (r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"(1,3)", "wrong"),
        (r"\frac{", "5", "gold_bad"),
        (r"1-\frac{1}{\mathrm{e}}", r"1+\frac{1}{\mathrm{e}}", "wrong"),
        ("4", "4 hours 30 minutes", "wrong"),
        ("5", "10^{10^{10}}", "undecided"),
        ("5", r"\frac{", "unparsed"),
        (r"\frac{68}{3} \text{ pounds}", r"\sqrt{13}", "wrong"),
        (r"2\frac{1}{2} \text{ pounds}", r"\sqrt{6.25}", "correct"),
    ],
)
def test_algebra_decides(judge, gold, said, status):
    assert judge.judge(problem(gold), Said(f"\\boxed{{{said}}}")).status == status


def test_several_boxes_make_one_answer_only_where_the_gold_is_several(judge):
    said = Said(r"$x = \boxed{3}$ or $x = \boxed{5}$")
    assert judge.judge(problem("3,5"), said).status == "correct"
    assert judge.judge(problem("5"), said).status == "correct"
    assert judge.judge(problem("3"), said).status == "wrong"


def test_an_empty_gold_answer_is_not_the_samplers_fault(judge):
    assert judge.judge(problem(" "), Said("12")).status == "gold_bad"


def test_an_open_problem_stays_undecided(judge):
    assert judge.judge(problem(None, kind="open"), Said("12")).status == "undecided"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_oracle_is_always_right_and_its_mistakes_always_wrong(judge, name):
    rng = random.Random(0)
    rows = [family(name).generate(rng, level) for level in (1, 2, 3, 5) for _ in range(5)]
    for rate, status in ((0.0, "correct"), (1.0, "wrong")):
        oracle = OracleSampler(rows, error_rate=rate)
        asked = [Request(row.id, (), Params(max_tokens=500), 2) for row in rows]
        said = [
            (row, Said(done.text))
            for row, out in zip(rows, oracle.sample(asked), strict=True)
            for done in out.completions
        ]
        assert {verdict.status for verdict in judge.judge_many(said)} == {status}


def test_verdicts_come_in_the_order_of_the_pairs(judge):
    slow = NESTED[0]
    pairs = [
        (slow, trace(NESTED[1].text, id="0")),
        (problem(), trace("12", id="1")),
        (slow, trace("\\boxed{3}", id="2")),
        (problem(), trace("13", id="3")),
    ]
    verdicts = list(judge.judge_many(iter(pairs)))
    assert [verdict.trace_id for verdict in verdicts] == ["0", "1", "2", "3"]
    assert [verdict.status for verdict in verdicts] == ["correct", "correct", "wrong", "wrong"]


def test_cheap_verdicts_are_yielded_as_they_come(judge):
    read = []

    def pairs():
        for number in range(500):
            read.append(number)
            yield problem(), Said("12")

    next(judge.judge_many(pairs()))
    assert len(read) == 1


def test_judging_numbers_starts_no_process_and_imports_no_algebra():
    code = (
        "import sys\n"
        "from distill.judge import Judge, Said\n"
        "from distill.records import Problem\n"
        "row = Problem(id='p', kind='answer', prompt='', answer='12', source='gsm8k', split='test')\n"
        "with Judge() as judge:\n"
        "    assert judge.judge(row, Said('#### 12')).status == 'correct'\n"
        "    assert not judge._algebra.started and not judge._programs.started\n"
        "loaded = {'sympy', 'math_verify', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_familys_garbage_never_reaches_algebra():
    row = problem("12", source="expressions")
    with Judge() as judge:
        for text in (r"\boxed{ 7 + 5 }", r"\boxed{ = ; }", r"\boxed{ Mia }"):
            assert judge.judge(row, Said(text)).status == "wrong"
        assert judge._algebra.started == 0


def test_five_thousand_numbers_are_judged_in_a_second(judge):
    kind, rng = family("stories"), random.Random(1)
    rows = [kind.generate(rng, 3) for _ in range(1000)]
    pairs = [(row, Said(join_thought(row.solution, row.answer))) for row in rows]
    begun = time.process_time()
    assert all(verdict.status == "correct" for verdict in judge.judge_many(pairs))
    assert time.process_time() - begun < 0.2


NESTED = problem(r"\log 100"), Said(r"\boxed{2}")
"""What takes computer algebra to decide."""
HANGS = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n    while True: pass\n"
DIES = "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n"


def crew(tmp_path, script):
    path = tmp_path / "server.py"
    path.write_text(script)
    return Crew(Kind("test", path, ("-I", "-S"), inherit_environment=False))


def test_a_hanging_server_is_killed_at_the_deadline(tmp_path):
    hanging = crew(tmp_path, HANGS)
    begun = time.monotonic()
    with pytest.raises(LateError):
        hanging.ask({}, 0.3)
    assert time.monotonic() - begun < 10
    assert hanging.idle == []


def test_a_question_that_takes_down_two_servers_has_no_answer(tmp_path):
    dying = crew(tmp_path, DIES)
    assert dying.ask({}, 10) is None
    assert dying.started == 2


def test_a_server_that_does_not_start_is_the_judges_error(tmp_path):
    with pytest.raises(JudgeError, match="did not start"):
        crew(tmp_path, "raise SystemExit(3)").ask({}, 5)


def test_a_timeout_is_not_wrong(tmp_path, monkeypatch):
    hanging = crew(tmp_path, HANGS)
    with Judge(timeout=0.3) as judge:
        monkeypatch.setattr(judge, "_algebra", hanging)
        assert judge.judge(*NESTED).status == "timeout"


def test_a_failure_of_the_judge_is_no_verdict_and_is_not_remembered(tmp_path, monkeypatch):
    with Judge() as judge:
        monkeypatch.setattr(judge, "_algebra", crew(tmp_path, "raise SystemExit(3)"))
        for _ in range(2):
            with pytest.raises(JudgeError):
                judge.judge(*NESTED)


def test_closing_the_judge_ends_its_processes():
    judge = Judge()
    judge.judge(*NESTED)
    (server,) = judge._algebra.idle
    judge.close()
    assert server.process.poll() is not None


@pytest.mark.data
def test_the_verdicts_on_recorded_gsm8k_solutions_are_the_published_labels(data_dir):
    from distill.sampling.replay import RECORDINGS

    _agrees(data_dir, "gsm8k_model_solutions", RECORDINGS, "gold", expected=0)


@pytest.mark.data
def test_the_verdicts_on_recorded_math_samples_differ_from_qwens_grader_once(data_dir):
    """The one is `10{,}000` against `10000`, which the grader calls wrong."""
    from distill.sampling.replay import RECORDINGS

    _agrees(data_dir, "math_cot_samples", RECORDINGS, "gold", expected=1)


def _agrees(data_dir, name, recordings, gold, *, expected):
    import gzip
    import json

    recording = recordings[name]
    path = data_dir / f"{recording.file}.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    said = [recording.recorded(recording.row.model_validate(row)) for row in rows]
    with Judge(timeout=30.0) as judge:
        pairs = [(problem(str(row[gold])), Said(each.text)) for row, each in zip(rows, said, strict=True)]
        statuses = [verdict.status for verdict in judge.judge_many(pairs)]
    differ = [each for each, status in zip(said, statuses, strict=True) if (status == "correct") != each.label]
    assert len(differ) == expected
