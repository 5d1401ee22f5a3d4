"""Protocols on invented rows; against the harness itself they are held by `make lm-eval-audit`."""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.judge import Judge
from distill.records import Problem, Tests, Trace, Verdict
from evals.protocols import NAMES, PROTOCOLS, Reader, asks, minerva, protocol_for, protocol_name
from evals.protocols.protocol import Protocol, Reading, Shots
from evals.protocols.shots import before, fill

SUM = Problem(id="gsm8k/test/1", kind="answer", prompt="2 and 2?", answer="1234", source="gsm8k", split="test")


def trace(text: str, finish: str = "stop") -> Trace:
    return Trace.model_validate(
        {
            "id": "t",
            "problem_id": "p",
            "sampler": {"name": "s", "revision": "r"},
            "params": None,
            "sample_index": 0,
            "reasoning": None,
            "answer": text,
            "text": text,
            "finish": finish,
            "prompt_tokens": 1,
            "completion_tokens": 1,
        }
    )


def read(protocol: str, reading: str, problem: Problem, said: Trace, judge: Any = None) -> Verdict:
    (chosen,) = (one for one in PROTOCOLS[protocol].readings if one.name == reading)
    (verdict,) = Reader(chosen, judge).judge_many([(problem, said)])
    return verdict


@pytest.mark.parametrize(
    ("reading", "said", "status", "extracted"),
    [
        pytest.param("strict-match", "so\n#### 1,234\n\nQ", "correct", "1,234", id="commas do not count"),
        pytest.param("strict-match", "#### 5\n#### 1234", "wrong", "5", id="the first mark counts"),
        pytest.param("strict-match", "it is 1234", "unparsed", None, id="no mark"),
        pytest.param("flexible-extract", "7 then 1234.", "correct", "1234.", id="the last number, its dot ignored"),
        pytest.param("flexible-extract", "$1234", "correct", "$1234", id="dollars"),
        pytest.param("flexible-extract", "1234 or 8", "wrong", "8", id="the last number"),
        pytest.param("flexible-extract", "none", "unparsed", None, id="no number"),
    ],
)
def test_gsm8k_is_read_as_the_harness_reads_it(reading: str, said: str, status: str, extracted: str | None) -> None:
    verdict = read("lm-eval:gsm8k", reading, SUM, trace(said))
    assert (verdict.status, verdict.extracted) == (status, extracted)
    assert verdict.judge_version.startswith(reading)


def test_a_text_cut_before_its_answer_is_truncated_not_unparsed() -> None:
    assert read("lm-eval:gsm8k", "strict-match", SUM, trace("so far", "length")).status == "truncated"


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("$10{,}000$", "10000"),
        (r"$2\sqrt2$", r"2\sqrt{2}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"$x = 5$ inches", "5"),
        (r"\left(1,2\right)", r"\left(1,2\right)"),
        (r"90^\circ", "90"),
        ("12,345", "12345"),
        ("0,1", "0,1"),
        (r"\sqrt[3]a", r"\sqrt[3]{a}"),
        (r"\text{yes}", "yes"),
    ],
)
def test_minerva_normalizes(answer: str, plain: str) -> None:
    assert minerva.normalized(answer) == plain


def test_minerva_reads_its_phrase_alone_even_where_the_text_stops_in_it() -> None:
    assert minerva.final_answer("Final Answer: The final answer is $5$. I hope it is correct.") == "$5$"
    assert minerva.final_answer("Final Answer: The final answer is $5$. ") == "$5$"
    assert minerva.final_answer(r"so \boxed{5}") is None


def test_minerva_equals_by_text_or_by_algebra_and_never_lists_by_algebra() -> None:
    def status(gold: str, said: str) -> str:
        problem = Problem(id="m", kind="answer", prompt="?", answer=gold, source="math", split="test")
        text = f"Final Answer: The final answer is ${said}$. I hope it is correct."
        with Judge() as judge:
            return read("lm-eval:minerva_math", "exact_match", problem, trace(text), judge).status

    assert status(r"\frac{1}{2}", "0.5") == "correct"
    assert status("(1,2)", "(1,2)") == "correct"
    assert status("(1,2)", "(1, 2.0)") == "wrong"
    assert status("5", "6") == "wrong"


def test_a_program_is_prompt_and_completion_and_nothing_is_mended() -> None:
    tests = Tests(entry_point="f", check="def check(g):\n    assert g(1) == 2", prefix="def f(x):\n")
    problem = Problem(id="h", kind="code", prompt=tests.prefix, tests=tests, source="humaneval", split="test")
    with Judge() as judge:
        asked = [trace("    return x + 1"), trace("```python\ndef f(x):\n    return x + 1\n```"), trace("    return x")]
        (reading, *_) = PROTOCOLS["lm-eval:humaneval"].readings
        found = list(Reader(reading, judge).judge_many((problem, one) for one in asked))
    assert [(one.status, one.why) for one in found[:2]] == [("correct", found[0].why), ("wrong", "does not compile")]
    assert found[2].status == "wrong"
    assert found[0].extracted == "def f(x):\n    return x + 1"


def test_verdicts_come_in_order_though_some_need_no_judge() -> None:
    class Slow:
        def prepare(self, problems: Iterable[Problem]) -> None:
            """Nothing."""

        def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
            everything = list(pairs)
            yield from (Verdict(trace_id=one.id, judge_version="9", status="correct") for _, one in everything)

    tests = Tests(entry_point="f", check="def check(g): pass")
    problem = Problem(id="h", kind="code", prompt="", tests=tests, source="humaneval", split="test")
    texts = ["x =", "x = 1", "y =", "y = 1", "z ="]
    said = [trace(text).model_copy(update={"id": text}) for text in texts]
    reader = Reader(Reading(name="pass_at_1", how="program"), Slow())
    found = [(one.trace_id, one.status) for one in reader.judge_many((problem, one) for one in said)]
    assert found == list(zip(texts, ["wrong", "correct", "wrong", "correct", "wrong"], strict=True))


def rows(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        lines = (
            json.dumps(
                {"id": f"gsm8k/{split}/{i}", "question": f"{split} {i}?", "answer": f"{i} #### {i}", "final": str(i)}
            )
            for i in range(30)
        )
        (tmp_path / f"gsm8k_{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def drawn(**keys: Any) -> Shots:
    table = {"origin": "drawn", "n": 3, "benchmark": "gsm8k", "seed": 7, "example": "Q {question} A {answer}\n\n"}
    return Shots.model_validate(table | keys)


def test_examples_other_than_the_protocols_are_refused_by_their_hash(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the training split of gsm8k: other text than the protocol's"):
        before(drawn(sha256="0" * 64), rows(tmp_path))
    with pytest.raises(UserError, match=r"gsm8k-cot\.yaml: no such file"):
        before(PROTOCOLS["lm-eval:gsm8k_cot"].shots, tmp_path)


def test_drawn_examples_hang_on_the_place_in_the_test_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.protocols.shots._check", lambda shots, content, what: None)
    first = before(drawn(), rows(tmp_path))
    problem = SUM.model_copy(update={"id": "gsm8k/test/2"})
    rng = random.Random(7)
    picks = [rng.sample(range(30), 3) for _ in range(3)][2]
    assert first(problem) == "".join(f"Q train {i}? A {i} #### {i}\n\n" for i in picks)
    assert first(problem) == first(problem)
    with pytest.raises(UserError, match="not in the test file of gsm8k"):
        first(SUM.model_copy(update={"id": "mine"}))


def test_a_template_fills_its_fields_once_and_leaves_other_braces() -> None:
    assert fill(r"{prompt} \boxed{} {other}", {"prompt": "{prompt}"}) == r"{prompt} \boxed{} {other}"


def test_lm_eval_alone_means_the_task_of_the_benchmark() -> None:
    assert protocol_for("lm-eval", ["math500"]).name == "lm-eval:minerva_math"
    with pytest.raises(UserError, match="expected one of gsm8k"):
        protocol_for("lm-eval", ["gsm8k", "math500"])
    with pytest.raises(UserError, match="is for humaneval"):
        protocol_for("lm-eval:humaneval", ["gsm8k"])
    with pytest.raises(UserError, match=r"unknown \(did you mean r1\?\)"):
        protocol_for("r2", ["gsm8k"])
    assert all(protocol_for(name, [PROTOCOLS.get(name, PROTOCOLS["r1"]).sources[0]]) for name in NAMES if ":" in name)


def test_chat_protocols_ask_for_a_box_or_a_block(tmp_path: Path) -> None:
    ask = asks(PROTOCOLS["r1"], tmp_path)
    (turn,) = ask(SUM)
    assert (turn.role, turn.content.startswith("2 and 2?\n\n"), r"\boxed{}" in turn.content) == ("user", True, True)
    tests = Tests(entry_point="f", check="def check(g): pass")
    (turn,) = ask(Problem(id="c", kind="code", prompt="Write f.", tests=tests, source="mbpp", split="test"))
    assert "```python" in turn.content


def test_every_part_of_a_protocol_changes_its_hash() -> None:
    r1 = PROTOCOLS["r1"]

    def name(protocol: Protocol, **changed: Any) -> str:
        return protocol_name(protocol.name, protocol, changed, ["judge 4"])

    names = {name(r1)}
    changes: dict[str, Any] = {
        "question": {"answer": "{prompt}!"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 10,
        "stop": ("x",),
        "shots": drawn(),
        "readings": (Reading(name="judge", how="pattern"),),
    }
    names |= {name(r1.model_copy(update={key: value})) for key, value in changes.items()}
    assert len(names) == len(changes) + 1
    assert name(r1, max_tokens=9).startswith("r1(max_tokens=9)@")


def test_published_protocols_keep_their_hashes() -> None:
    """A hash that moves makes old scores incomparable: change it only with what it stands for."""
    found = {name: protocol_name(name, protocol, {}, []).partition("@")[2] for name, protocol in PROTOCOLS.items()}
    assert found == HASHES


HASHES = {
    "r1": "547c9b22",
    "zero-shot-chat": "27eb0681",
    "lm-eval:gsm8k": "abac7ad3",
    "lm-eval:gsm8k_cot": "9ff57a26",
    "lm-eval:minerva_math": "584d2e16",
    "lm-eval:humaneval": "7cd17cf7",
    "lm-eval:mbpp": "8df1f58a",
}
