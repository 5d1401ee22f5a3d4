"""Before anything imports triton or transformers: no hub, and kernels interpreted where no GPU is."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def data_dir() -> Path:
    """Directory of benchmark files; the test is skipped with a reason when there is none."""
    path = os.environ.get("DISTILL_DATA")
    if not path:
        pytest.skip("DISTILL_DATA names no directory of benchmark files")
    return Path(path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real SmolLM2 weights, whose extra compiles llama.cpp, and slow ones run only when asked for by mark."""
    for mark in ("smollm", "slow"):
        if mark not in (config.getoption("-m") or ""):
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(mark)])
            items[:] = [item for item in items if not item.get_closest_marker(mark)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A test of benchmark files may be skipped only where the files are not."""
    report = yield
    if report.skipped and item.get_closest_marker("data") and os.environ.get("DISTILL_DATA"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although DISTILL_DATA is set: {report.longrepr}"
    return report
