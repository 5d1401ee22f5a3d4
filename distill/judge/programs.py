"""Programs: put a candidate's source together and have it run by a program server."""

import ast
import builtins
import re
import symtable
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.judge.servers import Kind
from distill.records import Tests

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from sandbox import server; del sys.path[0]; server.main(walled={})"
)
"""The server comes up as the package `sandbox`, so that nothing above it is imported."""
SERVER, UNWALLED = (
    Kind("program", Path(__file__).parent, ("-I", "-S", "-c", BOOT.format(walled)), inherit_environment=False)
    for walled in (True, False)
)
CPU_SECONDS = 3
MEMORY_BYTES = 512 << 20

FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
"""A fenced block; one that never closes ends with the text."""


def candidate_source(tests: Tests, answer: str, text: str) -> str:
    """The whole program: the problem's prefix and the answer, or the answer alone when it is complete.

    `text` is the completion as it was said: a base model continues the prefix, so there the
    indentation of the first line, which `answer` has lost, belongs to the program.
    """
    code = _unfenced(answer, tests.entry_point)
    if _defines(code, tests.entry_point):
        # The prefix may import or define what the answer uses; an empty body makes it whole.
        head = f"{tests.prefix.rstrip()}\n    pass\n\n" if tests.prefix else ""
        return f"{head}{code}\n"
    if code == answer and text.strip() == answer:
        code = text
    if tests.prefix.endswith("\n") and code[:1] not in ("", " ", "\t", "\n"):
        code = f"    {code}"
    return f"{tests.prefix}{code.rstrip()}\n"


def question(tests: Tests, source: str, wall_seconds: float) -> dict[str, Any]:
    """What a program server is asked."""
    return {
        "program": source,
        "check": tests.check if isinstance(tests.check, str) else list(tests.check),
        "entry_point": tests.entry_point,
        "calls": calls(tests.check, tests.entry_point),
        "modules": modules(tests.check),
        "cpu_seconds": CPU_SECONDS,
        "wall_seconds": wall_seconds,
        "memory_bytes": MEMORY_BYTES,
    }


@lru_cache(maxsize=4096)
def unusable(checks: str | tuple[str, ...]) -> str | None:
    """Why these checks can judge nothing, or None: they are compiled here, never run."""
    sources = (checks,) if isinstance(checks, str) else checks
    if not any(source.strip() for source in sources):
        return "the tests are empty"
    try:
        bodies = [statement for source in sources for statement in ast.parse(source).body]
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"the tests do not compile: {error}"
    if not bodies:
        return "the tests hold no statement"
    if isinstance(checks, str) and not any(getattr(body, "name", None) == "check" for body in bodies):
        return "the tests define no check(candidate)"
    return None


@lru_cache(maxsize=4096)
def calls(checks: str | tuple[str, ...], entry_point: str) -> list[str] | None:
    """Names the checks use but do not define: the program's functions.

    None when one of them is capitalized, so a class of the program's, whose objects cannot
    be kept in another process. The checks alone decide this, never the program.
    """
    module = symtable.symtable(_source(checks), "<checks>", "exec")
    scopes, used = [module], set()
    for scope in scopes:
        scopes += scope.get_children()
        free = (each for each in scope.get_symbols() if each.is_global() or scope is module)
        used |= {each.get_name() for each in free if each.is_referenced()}
    bound = {each.get_name() for each in module.get_symbols() if each.is_assigned() or each.is_imported()}
    bound |= {each.get_name() for each in module.get_symbols() if each.is_namespace()}
    names = sorted(used - bound - (set(dir(builtins)) - {entry_point}) - set(modules(checks)))
    return None if any(name[0].isupper() for name in names) else names


@lru_cache(maxsize=4096)
def modules(checks: str | tuple[str, ...]) -> list[str]:
    """Modules of the standard library whose members the checks use; some leave the import to the program."""
    members = (node.value for node in ast.walk(ast.parse(_source(checks))) if isinstance(node, ast.Attribute))
    return sorted({each.id for each in members if isinstance(each, ast.Name)} & sys.stdlib_module_names)


def _source(checks: str | tuple[str, ...]) -> str:
    return checks if isinstance(checks, str) else "\n".join(checks)


def _unfenced(answer: str, entry_point: str) -> str:
    """The fenced block that defines the entry point, else the first one, else the answer as it is."""
    blocks: list[str] = FENCED.findall(answer)
    if not blocks:
        return answer
    return next((block for block in blocks if _defines(block, entry_point)), blocks[0])


def _defines(code: str, entry_point: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.MULTILINE) is not None
