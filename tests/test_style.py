"""Style: five looks at how something is said, and none at whether it is right."""

import gzip
import json
import random
import time

import pytest

from distill.judge.style import LOOKS, form, styles
from distill.judge.style.language import language
from distill.judge.style.readability import readability
from distill.judge.style.reflection import reflection

ENGLISH = (
    "Okay, let me think about this. In April she sold 48 clips and in May half as many, so that is $48/2 = 24$ "
    "clips. Wait, let me check that again: half of 48 is 24. Altogether she sold 48 + 24 = 72 clips."
)
GOOD = "<think> 7 + 5 = 12 ; </think> 12"


def test_a_well_formed_completion_scores_one():
    assert form(GOOD, "stop").score == 1.0
    assert form(GOOD, "stop").reason == ""
    assert form("7 + 5 = 12 ; </think> 12", "stop", think_open=True).score == 1.0


@pytest.mark.parametrize(
    ("text", "finish", "think_open"),
    [
        pytest.param(GOOD, "length", False, id="cut"),
        pytest.param("12", "stop", False, id="no thought"),
        pytest.param("<think> 7 + 5 = 12", "stop", False, id="never closed"),
        pytest.param("<think> </think> 12", "stop", False, id="empty thought"),
        pytest.param("<think> a </think>", "stop", False, id="no answer"),
        pytest.param("<think> a </think> <think> b </think> 12", "stop", False, id="two thoughts"),
        pytest.param("<think> a </think> b </think> 12", "stop", False, id="closed twice"),
        pytest.param("<think> a <think> b </think> 12", "stop", False, id="opened twice"),
        pytest.param("<think> a </think> 12 <think>", "stop", False, id="opened again behind the answer"),
        pytest.param("12 <think> a </think> 12", "stop", False, id="answer before the thought"),
        pytest.param(GOOD, "stop", True, id="opened again although the prompt had"),
        pytest.param(r"<think> a </think> \boxed{1} \boxed{2}", "stop", False, id="two boxes"),
        pytest.param("", "stop", False, id="nothing"),
    ],
)
def test_every_flaw_of_form_costs_something_and_is_named(text, finish, think_open):
    found = form(text, finish, think_open=think_open)
    assert 0.0 <= found.score < 1.0
    assert found.reason


def test_a_wrong_answer_has_full_form():
    assert form("<think> 7 + 5 = 3 ; </think> 3", "stop").score == 1.0


def test_more_flaws_of_form_score_less():
    scores = [form(text, "stop").score for text in (GOOD, "<think> a </think>", "<think> a", "")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


# Readability


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("12", id="a number alone"),
        pytest.param(r"\boxed{\left\{1\right.}", id="escaped brace"),
        pytest.param("It costs $22 and $3.50.", id="two prices"),
        pytest.param("It costs $22, that is $x + 2$ of all.", id="a price and a formula"),
        pytest.param("It costs $22 + x$ in all.", id="a formula that begins like a price"),
        pytest.param("```python\nd = '{'\n```\n5", id="brackets in code"),
        pytest.param("The sums of both rows are:\n| a | b |\n|---|---|\n" + "-" * 39 + "\n5", id="a table and a rule"),
        pytest.param("See https://example.org/" + "a" * 200 + " for 5.", id="a long address"),
        pytest.param("\\[" + "x+y=" * 100 + "5\\]", id="a long formula"),
        pytest.param("so we have ((((((((((1+2)*3)+4)*5)+6)*7)+8)*9)+1)*2)", id="nested parentheses"),
        pytest.param("( 7 + 5 ) * ( 3 - 2 ) = 12", id="a sum in symbols"),
        pytest.param("答案是十二。" * 30, id="Chinese has no spaces"),
        pytest.param("これは東京の日本語です。 This is the English one. Это русское слово тут.", id="three languages"),
        pytest.param("The rhythms of the strengths and lengthy Knightsbridge.", id="words with few vowels"),
    ],
)
def test_what_a_person_can_read_scores_one(answer):
    assert (readability("", answer).score, readability("", answer).reason) == (1.0, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param("it is \ufffd 5", "broken characters", id="replacement character"),
        pytest.param("it is \x00 5", "broken characters", id="NUL"),
        pytest.param("it is \ud800 5", "broken characters", id="half a character"),
        pytest.param("it is 5<|im_end|>", "control tokens", id="a token of the template"),
        pytest.param("it is 5<｜end▁of▁sentence｜>", "control tokens", id="DeepSeek's own"),
        pytest.param("it is 5 " + "ab1" * 40, "endless token", id="a blob"),
        pytest.param("it is 5" + "!" * 15, "row of marks", id="marks"),
        pytest.param("it is 5" + "." * 100, "endless token", id="dots without end"),
        pytest.param("so it goes on " * 120 + "5", "wall of words", id="no line break"),
        pytest.param("it is $5x", 'left open "$"', id="a dollar"),
        pytest.param(r"it is \(5", r'left open "\("', id="a parenthesis"),
        pytest.param(r"it is \begin{array} 5", r'left open "\begin{"', id="an environment"),
        pytest.param(r"it is \boxed{5", 'left open "{"', id="a brace"),
        pytest.param("it is 5}", 'left open "}"', id="a brace too many"),
        pytest.param("it is 5}{", 'left open "}"', id="braces the wrong way around"),
        pytest.param("```python\n5", 'left open "```"', id="a fence"),
        pytest.param("...", "says nothing", id="nothing said"),
    ],
)
def test_a_flaw_of_readability_halves_the_score_and_is_named(answer, reason):
    found = readability("A thought of some words that says enough to be no row of symbols itself.", answer)
    assert reason in found.reason
    assert found.score == 0.5


def test_open_formulas_are_the_answers_flaw_alone():
    assert readability("we try $x and \\[", "5").score == 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param("5" + " % & / ( ) = ? + # ^ ~ > <", "mostly symbols", id="symbols"),
        pytest.param("qwrtzp sdfghj bcvbnm is 5", "nobody could say", id="keys"),
        pytest.param("这是的 он да нет في من على of the in 5", "too many scripts", id="four scripts"),
    ],
)
def test_noise_quarters_the_score(answer, reason):
    found = readability("", answer)
    assert reason in found.reason
    assert found.score == 0.25


def noise(kind):
    rng = random.Random(0)
    letters = {"symbols": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", "keys": "bcdfghjklmnpqrstvwxz    "}.get(kind)
    if letters:
        return "".join(rng.choice(letters) for _ in range(3000))
    if kind == "bytes":
        return rng.randbytes(3000).decode("utf-8", "replace")
    return "".join(
        chr(rng.choice((rng.randrange(0x400, 0x700), rng.randrange(0x3040, 0xD7FF), 32))) for _ in range(3000)
    )


@pytest.mark.parametrize("kind", ["symbols", "keys", "bytes", "characters"])
def test_noise_is_hardly_readable(kind):
    assert readability("", noise(kind)).score <= 0.25


# Reflection


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        pytest.param("Wait, that is odd.", "doubt", id="wait"),
        pytest.param("It is 5.\nWait that is odd.", "doubt", id="wait without a comma"),
        pytest.param("They wait for an hour until the wait is over", "", id="the verb"),
        pytest.param("Hmm. Let me double-check the sum.", "doubt verify", id="two in a row"),
        pytest.param("Let me check whether the check is paid.", "verify", id="the noun"),
        pytest.param("Let’s re-calculate it.", "doubt", id="curly apostrophe"),
        pytest.param("Let me recall the formula.", "", id="no other re-"),
        pytest.param("On second thought, that can't be right.", "doubt doubt", id="second thought"),
        pytest.param("Alternatively, try another way.", "alternative alternative", id="alternatives"),
        pytest.param("等等，不对，让我检查一下，换一种方法。", "doubt doubt verify alternative", id="Chinese"),
        pytest.param("The answer is five.", "", id="none"),
    ],
)
def test_markers_are_counted_by_kind(text, kinds):
    counts = reflection(text, "").counts
    assert {kind: count for kind, count in counts.items() if count} == {
        kind: kinds.split().count(kind) for kind in kinds.split()
    }


def test_reflection_saturates_and_too_much_of_it_is_filler():
    rest = "and so the sum of all these numbers is what we have found here now\n"
    scores = [reflection("Wait, no.\n" * waits + rest * 30, "").score for waits in (0, 1, 5, 20)]
    assert scores[0] == 0.0 < scores[1] < scores[2] == scores[3] == 1.0
    filler = reflection("Wait, hmm. " * 100, "")
    assert filler.score == 0.0
    assert "per 100 words" in filler.reason


def test_a_short_thought_with_one_doubt_is_no_filler():
    assert reflection("Wait, it is 5.", "").score == 1.0


def test_an_answers_markers_count_only_where_there_is_no_thought():
    assert reflection("", "Wait, let me check.").score == 1.0
    assert reflection("It is five.", "Wait, let me check.").reason == "no reflection"


# All looks

HOSTILE = {
    "empty": "",
    "tags": "<think></think>" * 1000,
    "half characters": "\ud800\x00" * 300_000,
    "one letter": "a" * 10**6,
    "words": "ab " * 300_000,
    "random": "".join(random.Random(0).choices([chr(code) for code in range(32, 127)], k=10**6)),
    "formulas": "\\[" * 500_000,
    "mixed formulas": "\\[a\\(" * 200_000,
    "dollars": "$a\n" * 300_000,
    "fences": "```a`" * 200_000,
    "backslashes": "\\" * 10**6,
    "braces": "{" * 10**6,
    "rules": ("-" * 119 + " ") * 8_000,
    "runs": ("a" * 100 + " ") * 10_000,
    "Chinese": "中" * 300_000,
    "waits": "let me " * 140_000,
    "two letters": "ab" * 250_000 + "c" + "ab" * 250_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_megabytes_take_linear_time(text):
    language(ENGLISH, "")  # loads the identifier
    begun = time.process_time()
    found = styles(text, "length", question=ENGLISH)
    assert time.process_time() - begun < 10  # 1.9 at most on a busy machine; a quadratic look takes minutes
    for style in found.values():
        assert 0.0 <= style.score <= 1.0
        assert bool(style.reason) == (style.score < 1.0)
        assert len(style.reason) < 1000
        style.reason.encode()


def test_every_look_goes_by_its_name():
    found = styles(f"<think>{ENGLISH}</think>\nShe sold 72 clips.", "stop", question=ENGLISH)
    assert tuple(found) == LOOKS == ("format", "readability", "language", "repetition", "reflection")
    assert [style.score for style in found.values()] == [1.0] * 5


def test_a_thought_the_prompt_opened_is_a_thought_to_every_look():
    found = styles("Wait, let me check. </think> \\(5", "stop", think_open=True)
    assert found["format"].score == found["reflection"].score == 1.0
    assert "left open" in found["readability"].reason
    assert "says nothing" in styles("A thought without end", "length", think_open=True)["readability"].reason


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "asked", "said", "noise"),
    [
        pytest.param("r1_distill_math_traces.jsonl", "problem", "response", 0, id="R1 distillates"),
        pytest.param("r1_safety_traces_star1.jsonl.gz", "question", "response", 0, id="R1"),
        pytest.param("math_cot_samples_qwen.jsonl.gz", "problem", "response", 3, id="Qwen"),
        pytest.param("gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl", "problem", "text", 12, id="Qwen Coder"),
    ],
)
def test_real_traces_have_style(data_dir, file, asked, said, noise):
    """`noise`: of Qwen's samples three end in a soup of scripts; of Qwen Coder's twelve are cut within a formula."""
    read = gzip.open if file.endswith(".gz") else open
    with read(data_dir / file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    opened = "distill" in file
    found = [
        styles(row[said], row.get("finish_reason", "stop"), think_open=opened, question=row.get(asked)) for row in rows
    ]
    scores = {look: sorted(style[look].score for style in found) for look in LOOKS}
    twentieth = len(rows) // 20
    assert scores["readability"][noise] == 1.0
    assert scores["language"][twentieth] >= 0.98
    assert scores["repetition"][twentieth] == 1.0
    assert sum(score == 1.0 for score in scores["language"]) >= 0.98 * len(rows)
    if opened:
        assert scores["reflection"][len(rows) // 10] == 1.0
