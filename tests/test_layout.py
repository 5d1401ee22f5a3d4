"""Each top-level package resolves beside pyproject.toml; a colliding one is named."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", ["distill", "teacher", "students", "evals", "cli"])
def test_package_resolves_to_this_checkout(package: str) -> None:
    found = Path(str(importlib.import_module(package).__file__)).parent
    assert found == ROOT / package, f"{package} is imported from {found}: uninstall the distribution that owns it there"


@pytest.mark.parametrize("heavy", ["torch", "transformers", "pydantic", "rich"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = f"import sys, cli.main; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    packages = ("distill", "teacher", "students", "evals", "cli")
    assert [path for package in packages for path in (ROOT / package).rglob("*.py") if path.name in vague] == []


def test_no_file_exceeds_four_hundred_lines() -> None:
    packages = ("distill", "teacher", "students", "evals", "cli", "tests")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 400} == {}
