"""Mutation: changes every comparison of the equivalence code, one at a time, and wants an answer pair to break.

Each comparison is turned into its opposite, and each order comparison also loses or gains its
equal case. The modules are built anew in a forked process around the changed one; all of
`tests/answer_pairs.py` is judged there, and the tests of `tests/test_equivalence.py` that take
no argument are run. `SAME` lists the changes that change nothing, each with its reason.
"""

import ast
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tests import test_equivalence
from tests.answer_pairs import PAIRS
from tests.audit.finding import Finding

ORDER = (
    "algebra.sums",
    "algebra.bounds",
    "algebra.forms",
    "notation",
    "numerals",
    "answers",
    "expression",
    "reading",
    "shapes",
    "equivalence",
)
"""Modules of `distill.judge` that decide equivalence, each before those that import it."""
OPPOSITE = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
EDGE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
SECONDS = 20
LIMIT, TIE, NEVER, SPELLING, DIGITS = (
    "a limit on work, moved by one",
    "floating point numbers exactly at their error bound",
    "the two sides are never equal here",
    "another spelling, the same for both answers",
    "what is not found equal by its spelling is found so by its digits",
)
EQUAL_CASES = (LIMIT, TIE, NEVER)
SAME = {
    ("algebra.sums", "len(total) > MOST_TERMS"): LIMIT,
    ("algebra.sums", "len(left) * len(right) > MOST_TERMS * 4"): LIMIT,
    ("algebra.sums", "max(number.numerator.bit_length(), number.denominator.bit_length()) > MOST_BITS"): LIMIT,
    ("algebra.sums", "len(key) > LONGEST_KEY"): LIMIT,
    ("algebra.sums", "bits * abs(times) > MOST_BITS * 2"): LIMIT,
    ("algebra.forms", "known > LARGEST_FACTORIAL"): LIMIT,
    ("algebra.forms", "n > LARGEST_FACTORIAL"): LIMIT,
    ("notation", "len(text) > LONGEST"): LIMIT,
    ("numerals", "len(text) > LONGEST_NUMBER"): LIMIT,
    ("reading", "len(text) > LONGEST"): LIMIT,
    ("expression", "self.depth > DEEPEST"): LIMIT,
    ("algebra.bounds", "abs(near[0]) > 4 * near[1]"): TIE,
    ("algebra.bounds", "abs(near[0]) <= 4 * near[1]"): TIE,
    ("algebra.bounds", "abs(below[0]) <= 4 * below[1]"): TIE,
    ("algebra.bounds", "inner[1] >= arithmetic.nearby"): TIE,
    ("algebra.bounds", "spread < 0.1"): TIE,
    ("algebra.bounds", "near[1] > arithmetic.nearby"): TIE,
    ("algebra.bounds", "abs(near[0].imag) <= 4 * near[1]"): TIE,
    ("algebra.bounds", "abs(base) <= 4 * inner[1]"): TIE,
    ("algebra.bounds", "abs(1 - z * z) <= arithmetic.nearby ** 0.5"): TIE,
    ("algebra.bounds", "base.real < 0"): TIE,
    ("algebra.bounds", "abs(times[0] * logarithm) > LARGEST_EXPONENT"): LIMIT,
    ("algebra.bounds", "times.denominator > 1"): "a denominator of 1 is odd, but then its power has no branch",
    ("algebra.bounds", "times > 0"): NEVER,
    ("algebra.bounds", "point > 0"): NEVER,
    ("algebra.bounds", "one != IMAGINARY"): DIGITS,
    ("algebra.sums", "times >= 1"): DIGITS,
    ("algebra.forms", "name == 'log'"): DIGITS,
    ("algebra.forms", "abs(near[0].imag) <= near[1] < abs(near[0].real)"): DIGITS,
    ("algebra.forms", "near[0].real < 0"): DIGITS,
    ("algebra.forms", "one.kind == 'root'"): DIGITS,
    ("algebra.forms", "base > 0"): NEVER,
    ("algebra.forms", "abs(near[0].imag) > near[1]"): TIE,
    ("algebra.forms", "abs(near[0].real) <= near[1]"): TIE,
    ("algebra.forms", "near[0].real <= near[1]"): TIE,
    ("reading", "abs(one[0] - other[0]) <= 0.02 * abs(one[0])"): TIE,
    ("shapes", "len(names) > 1"): "a list of one has no order",
    ("algebra.forms", "near[0].real > 0"): NEVER,
    ("algebra.forms", "factor < 0"): NEVER,
    ("algebra.forms", "first[_first(first)] / second[_first(first)] > 0"): NEVER,
    ("shapes", "forms.ratio_sign(first, second) > 0"): NEVER,
    ("shapes", "further > 0"): "equal ends: either one serves",
    ("numerals", "0 <= part[0] < 1"): "a fraction of 0 is read the same way further on",
    ("algebra.forms", "times < 0"): "1/(1/S^t) is S^t",
    ("algebra.forms", "argument.num[_first(argument.num)] < 0"): SPELLING,
    ("algebra.forms", "terms[_first(terms)] < 0"): SPELLING,
    ("numerals", "found.group(1) == '-'"): SPELLING,
    ("expression", "token == '\\\\pm'"): SPELLING,
}
"""Comparisons of which a change may survive, and why it changes no verdict."""


def report() -> Iterator[Finding]:
    """One line a survivor, and how many were killed."""
    killed = excused = survived = 0
    for name in ORDER:
        module = importlib.import_module(f"distill.judge.{name}")
        path = Path(str(module.__file__))
        for tree, old, edge, where in mutants(path.read_text(encoding="utf-8")):
            if not survives(name, compile(tree, str(path), "exec")):
                killed += 1
                continue
            reason = SAME.get((name, old))
            if reason in EQUAL_CASES and not edge:
                reason = None  # it speaks of the equal case, not of the opposite
            excused, survived = excused + (reason is not None), survived + (reason is None)
            line = f"  {reason or 'survived'}: {name.replace('.', '/')}.py:{where}"
            yield Finding(line, holds=reason is not None)
    said = f"{killed} of {killed + excused + survived} changed comparisons break a pair of answers"
    yield Finding(f"{said}, {excused} change no verdict, {survived} survive", survived == 0)


def mutants(source: str) -> Iterator[tuple[ast.Module, str, bool, str]]:
    """Every changed tree, the comparison it was changed in, whether only its equal case changed, and where that is."""
    places = [
        (number, part, new)
        for number, node in enumerate(ast.walk(ast.parse(source)))
        if isinstance(node, ast.Compare)
        for part, operator in enumerate(node.ops)
        for new in (OPPOSITE.get(type(operator)), EDGE.get(type(operator)))
        if new is not None
    ]
    for number, part, new in places:
        tree = ast.parse(source)
        node = next(node for place, node in enumerate(ast.walk(tree)) if place == number)
        assert isinstance(node, ast.Compare)
        old, kind = ast.unparse(node), type(node.ops[part])
        node.ops[part] = new()
        yield tree, old, new is not OPPOSITE[kind], f"{node.lineno} {old} -> {ast.unparse(node)}"


def survives(name: str, code: object) -> bool:
    """True when all pairs are judged as they should be although one module is changed."""
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(SECONDS)
        try:
            broken = bool(differences(name, code))
        except BaseException:  # noqa: BLE001 - a change that raises is found out too
            broken = True
        os._exit(1 if broken else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def differences(name: str, code: object) -> list[str]:
    """The first pair that is judged otherwise when module `name` is made of `code`."""
    for each in ORDER:
        module: ModuleType = sys.modules[f"distill.judge.{each}"]
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        exec(code if each == name else compile(source, str(module.__file__), "exec"), module.__dict__)  # type: ignore[arg-type]
    judged = sys.modules["distill.judge.equivalence"]
    notation = sys.modules["distill.judge.notation"]
    for rows in PAIRS.values():
        for gold, said, status in rows:
            ruling = judged.compare(judged.gold_answer(notation.normalize(gold)), notation.normalize(said))
            if (ruling.status if ruling else None) != status:
                return [f"{gold} | {said}"]
    for title, test in vars(test_equivalence).items():
        if title.startswith("test_") and not hasattr(test, "pytestmark") and not hasattr(test, "hypothesis"):
            test()
    return []


if __name__ == "__main__":
    for finding in report():
        print(finding.text)
