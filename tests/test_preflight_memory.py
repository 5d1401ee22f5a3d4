"""Memory that is free, and what a step that does not fit is told to change."""

from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.train.estimate import TrainShape
from distill.train.preflight.memory import Free, check_memory, free_memory
from distill.train.sft_table import SftConfig


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        pytest.param({}, r"gradient_checkpointing = true \(0.0\d+ GB\) or accumulation = 4 \(", id="neither is set"),
        pytest.param({"gradient_checkpointing": True, "tokens_per_batch": 5000}, "accumulation = 4 ", id="one is set"),
        pytest.param(
            {"accumulation": 64, "gradient_checkpointing": True, "tokens_per_batch": 10**6}, "no", id="no key"
        ),
    ],
)
def test_the_key_that_would_make_it_fit_is_named(fields: dict[str, Any], remedy: str) -> None:
    shape = TrainShape(
        what="toy",
        matrices=10**5,
        expert_matrices=0,
        rest=10**4,
        multiplied=10**5,
        further=0,
        vocabulary=100,
        layer_values=(1000,) * 8,
        width=100,
    )
    config = SftConfig.model_validate({"data": "d", "model": "m", "steps": 1, "tokens_per_batch": 2000, **fields})
    with pytest.raises(UserError, match=f"toy: training needs about .*{remedy}"):
        check_memory(config, shape, Free(2.2e7, "here"))


@pytest.mark.parametrize(
    ("line", "files", "free"),
    [
        pytest.param("0::/", {}, 8000 * 1024, id="no limit"),
        pytest.param("0::/a/b", {"a/memory.max": "5000000", "a/memory.current": "1000000"}, 4_000_000, id="a parent's"),
        pytest.param("0::/a", {"a/memory.max": "max", "a/memory.current": "1"}, 8000 * 1024, id="max"),
        pytest.param(
            "0::/a",
            {"a/memory.max": "5000000", "a/memory.current": "4000000", "a/memory.stat": "anon 1\ninactive_file 500000"},
            1_500_000,
            id="file pages come back",
        ),
        pytest.param(
            "4:cpu,memory:/",
            {"memory/memory.limit_in_bytes": "3000000", "memory/memory.usage_in_bytes": "1000000"},
            2_000_000,
            id="version 1",
        ),
    ],
)
def test_free_memory_is_the_least_of_machine_and_control_groups(
    line: str, files: dict[str, str], free: int, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(f"1:cpu:/else\n{line}\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory("cpu", root=tmp_path).bytes == free
    assert free_memory("cpu", 2, tmp_path).bytes == free / 2
