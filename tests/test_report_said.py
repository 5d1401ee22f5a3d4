import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.report.formulas import DEEPEST, LONGEST, formula
from evals.report.said import program, said

PAYLOADS = Path(__file__).with_name("report_payloads.txt").read_text(encoding="utf-8").split("\n%%\n")
PIECES = re.findall(
    r"\S+",
    r"""
    \frac { } ^ _ \left \right ( ) x 1 & \\ \begin{array} \end{array} {cc} \text{ \sqrt [ ] \boxed \overset \color{
    < > " \ \sum \substack{ \binom \genfrac \hline \tag{ \not \pmod ' \begin{cases} \end{cases} \href{ \style{ % ~ #1 |
    $ $$ \( \) \[ \] ``` ` ** \cfrac \middle \phantom \mathchoice \stackrel \operatorname \class{ &lt; -->
    """,
)


def set_of(tex: str, *, block: bool = False) -> ElementTree.Element:
    made = formula(tex, block=block)
    assert made is not None
    return ElementTree.fromstring(made)


def test_a_formula_is_mathml_with_its_source_inside() -> None:
    tree = set_of(r"\frac{1}{2}")
    assert [one.tag for one in tree.iter("mfrac")] == ["mfrac"]
    assert [one.text for one in tree.iter("mn")] == ["1", "2"]
    assert [one.text for one in tree.iter("annotation")] == [r"\frac{1}{2}"]


def test_what_browsers_do_not_draw_becomes_a_class() -> None:
    assert [one.get("class") for one in set_of(r"\boxed{4} \cancel{5}").iter("mrow") if one.get("class")] == [
        "boxed",
        "struck",
    ]
    cells = set_of(r"\begin{align*} x &= 1 \end{align*}").iter("mtd")
    assert [one.get("class") for one in cells] == ["right", "left"]


@pytest.mark.parametrize(
    "tex",
    [
        pytest.param(r"\text{<script>}", id="text the library would unescape"),
        pytest.param(r"\href{javascript:hit}{x}", id="link"),
        pytest.param(r"\style{color:red}{x}", id="style"),
        pytest.param(r"\class{a\" onclick=\"b}{x}", id="class"),
        pytest.param(r"\color{\"><img>}{x}", id="color"),
        pytest.param(r"\hspace{1em\" onclick=\"b}", id="width"),
        pytest.param(r"\text{&lt;b&gt;}", id="entity"),
    ],
)
def test_formulas_carry_no_markup_and_no_attribute_but_those_known(tex: str) -> None:
    for one in set_of(tex).iter():
        assert one.tag in {"math", "semantics", "annotation", "mrow", "mi", "mo", "mtext", "mstyle", "mspace"}
        assert set(one.attrib) <= {"encoding", "class", "width", "mathvariant", "stretchy"}


@pytest.mark.parametrize(
    "tex",
    [
        pytest.param(r"\left( x", id="never closed"),
        pytest.param("x^", id="nothing above"),
        pytest.param("", id="nothing"),
        pytest.param(r"\left", id="ends in the middle"),
        pytest.param("x" * (LONGEST + 1), id="too long"),
        pytest.param("{" * (DEEPEST + 1) + "}" * (DEEPEST + 1), id="too deep"),
        pytest.param(r"\def\a{\a\a}\a", id="macro that grows"),
    ],
)
def test_what_cannot_be_set_stays_as_written(tex: str) -> None:
    assert formula(tex, block=False) is None
    assert said(rf"\({tex}\)").count("<math") == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_broken_tex_is_set_or_left_and_never_breaks_the_page(tex: str) -> None:
    ElementTree.fromstring(f"<p>{said(tex)}</p>")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_is_kept_apart_from_markup(payload: str) -> None:
    tree = ElementTree.fromstring(f"<p>{said(payload)}</p>")
    assert not {one.tag for one in tree.iter()} & {"script", "img", "a", "style", "iframe", "svg", "input"}
    assert not {name for one in tree.iter() for name in one.attrib} - {
        "class",
        "display",
        "encoding",
        "width",
        "stretchy",
    }


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("It costs $5 and then $6.", id="two prices"),
        pytest.param("$80,000+50,000=$<<80000+50000=130000>>130,000", id="GSM8K's own sums"),
        pytest.param("20/100*$20=$4 so $20+$4 = $24", id="sums of prices"),
        pytest.param("between $5-$6", id="a range of prices"),
        pytest.param("US$ 5 and US$ 6", id="spaces"),
        pytest.param("a * b ** c and 2**3**2", id="powers of Python"),
    ],
)
def test_prices_are_no_formulas(words: str) -> None:
    assert "<" not in said(words).replace("&lt;", "")


@pytest.mark.parametrize(
    ("words", "formulas", "blocks"),
    [
        (r"so $x^2$, $y$ and \(z\)", 3, 0),
        (r"\[ x \] and $$y$$", 2, 2),
        (r"\begin{align*} x &= 1 \\ y &= 2 \end{align*}", 1, 1),
        (r"The answer is \boxed{\frac{1}{2}}.", 1, 0),
        (r"\boxed{\text{never closed}", 0, 0),
        (r"\$5 is no formula and \$6 none", 0, 0),
        ("**so $x$**", 1, 0),
    ],
)
def test_formulas_are_found_where_models_put_them(words: str, formulas: int, blocks: int) -> None:
    made = said(words)
    assert made.count("<math") == formulas
    assert made.count('display="block"') == blocks


def test_empty_lines_beside_a_block_are_its_margins() -> None:
    assert said("a\n\n\\[x\\]\n\nb\n\nc").endswith("</math>b\n\nc")
    assert said("a\n\n\\[x\\]\n\nb").startswith("a<math")


def test_fenced_code_is_colored_and_may_be_cut_off() -> None:
    made = said("look:\n```python\ndef f(x):\n    return '<b>'\n")
    assert '<span class="key">def ' in made
    assert '<span class="str">&#x27;&lt;b&gt;&#x27;' in made
    assert "```" not in made


def test_a_language_nobody_knows_is_plain() -> None:
    assert program("<x>", "no-such-language") == "&lt;x&gt;"


def test_no_character_of_a_program_is_lost() -> None:
    source = "  x = 1\n\n\tif x:  # why\n        print('é', 0x1F)\n"
    assert "".join(ElementTree.fromstring(f"<p>{program(source)}</p>").itertext()) == source
