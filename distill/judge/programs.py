"""Programs: put a candidate's source together and have it run by a program server."""

import ast
import builtins
import re
import symtable
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.judge.servers import Kind
from distill.records import Exchange, Tests
from distill.sandbox import Sandbox

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from sandbox import server; del sys.path[0]; "
    "server.main(walled={walled}, namespaced={namespaced})"
)
"""The server comes up as the package `sandbox`, so that nothing above it is imported."""
CPU_SECONDS = 3
MEMORY_BYTES = 512 << 20

FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
"""A fenced block; one that never closes ends with the text."""


def server(sandbox: Sandbox, *, namespaced: bool = True) -> Kind:
    """How a program server is started. `namespaced`: whether it tries for namespaces too."""
    boot = BOOT.format(walled=sandbox.walled, namespaced=namespaced)
    return Kind("program", Path(__file__).parent, ("-I", "-S", "-c", boot), inherit_environment=False)


def candidate_source(tests: Tests, answer: str, text: str) -> str:
    """The whole program: the problem's prefix and the answer, or the answer alone when it is complete.

    `text` is the completion as it was said: a base model continues the prefix, so there the
    indentation of the first line, which `answer` has lost, belongs to the program.
    """
    code = _unfenced(answer, text, tests)
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
    limits = {"cpu_seconds": CPU_SECONDS, "wall_seconds": wall_seconds, "memory_bytes": MEMORY_BYTES}
    exchanges = [each.model_dump() for each in tests.check if isinstance(each, Exchange)]
    if exchanges:
        return {"program": source, "setup": tests.setup, "exchanges": exchanges, **limits}
    sources = _sources(tests.check)
    return {
        "program": source,
        "setup": tests.setup,
        "check": tests.check if isinstance(tests.check, str) else sources,
        "entry_point": tests.entry_point,
        "calls": calls(sources, tests.entry_point, tests.setup),
        "modules": modules((tests.setup, *sources)),
        **limits,
    }


@lru_cache(maxsize=1024)
def unusable(tests: Tests) -> str | None:
    """Why these tests can judge nothing, or None: they are compiled here, never run."""
    exchanges = [each for each in tests.check if isinstance(each, Exchange)]
    if exchanges and not any(each.stdout.strip() for each in exchanges):
        return "the tests expect no output"
    sources = _sources(tests.check)
    if not exchanges and not any(source.strip() for source in sources):
        return "the tests are empty"
    try:
        ast.parse(tests.setup)
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"the setup does not compile: {error}"
    try:
        bodies = [statement for source in sources for statement in ast.parse(source).body]
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"the tests do not compile: {error}"
    if not bodies and not exchanges:
        return "the tests hold no statement"
    if isinstance(tests.check, str) and not any(getattr(body, "name", None) == "check" for body in bodies):
        return "the tests define no check(candidate)"
    return None


@lru_cache(maxsize=4096)
def calls(checks: tuple[str, ...], entry_point: str, setup: str) -> list[str] | None:
    """Names that checks and setup use but do not define: the program's functions, the entry point in any case.

    None when one of them is capitalized, so a class of the program's, whose objects cannot
    be kept in another process. The checks alone decide this, never the program: what the setup
    defines is theirs too, so a program that redefines it changes nothing.
    """
    used, bound = set(), set()
    for source in (setup, "\n".join(checks)):
        module = symtable.symtable(source, "<checks>", "exec")
        scopes = [module]
        for scope in scopes:
            scopes += scope.get_children()
            free = (each for each in scope.get_symbols() if each.is_global() or scope is module)
            used |= {each.get_name() for each in free if each.is_referenced()}
        own = (each for each in module.get_symbols() if each.is_assigned() or each.is_imported() or each.is_namespace())
        bound |= {each.get_name() for each in own} - ({entry_point} if source is setup else set())
    names = sorted(used - bound - (set(dir(builtins)) - {entry_point}) - set(modules((setup, *checks))))
    return None if any(name[0].isupper() for name in names) else names


@lru_cache(maxsize=4096)
def modules(sources: tuple[str, ...]) -> list[str]:
    """Modules of the standard library whose members the checks use; some leave the import to the program."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    members = (node.value for node in nodes if isinstance(node, ast.Attribute))
    return sorted({each.id for each in members if isinstance(each, ast.Name)} & sys.stdlib_module_names)


def _sources(check: str | tuple[str, ...] | tuple[Exchange, ...]) -> tuple[str, ...]:
    return (check,) if isinstance(check, str) else tuple(each for each in check if isinstance(each, str))


def _unfenced(answer: str, text: str, tests: Tests) -> str:
    """The fenced block that defines the entry point, else the first one; the last of a program that reads and prints.

    The answer as it is when there is none, or when the fences stand in texts of a program.
    """
    blocks: list[str] = FENCED.findall(answer)
    if not blocks or compiles(answer) or compiles(tests.prefix + text):
        return answer
    if any(isinstance(each, Exchange) for each in tests.check):
        return blocks[-1]  # as LiveCodeBench does (arXiv:2403.07974)
    return next((block for block in blocks if _defines(block, tests.entry_point)), blocks[0])


def compiles(code: str) -> bool:
    """Whether it is Python at all; nothing runs."""
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _defines(code: str, entry_point: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.MULTILINE) is not None
