"""One teacher on two gloo processes says and learns what it does on one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cli.main import app
from distill.checkpoints import CONFIG, Lineage, save_checkpoint
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.recipe import SHIPPED
from teacher.checkpoint import to_published
from teacher.config import preset
from teacher.fp8 import SCALE, quantize
from teacher.parallel.layout import Layout, Share, check_layout, share_of
from teacher.parallel.shapes import engine_shape
from tests import ranks

QUANTIZED = ("_proj.weight", "_mqa.weight")
BLOCKS = {
    "num_hidden_layers": 2,
    "hidden_size": 96,
    "num_attention_heads": 2,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 24,
    "n_routed_experts": 4,
    "moe_intermediate_size": 256,
}
"""As small as every part of two still fills whole blocks; the width is ragged."""


def torchrun(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(SHIPPED.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=180,
    )
    assert (done.returncode != 0) == (code != 0), done.stderr
    return done


def write_blocks(folder: Path, **keys: int) -> None:
    """A folder whose matrices are FP8 blocks, as DeepSeek publishes them."""
    config = preset("mini", **BLOCKS, **keys)
    tensors = {}
    for name, tensor in to_published(ranks.make(config).state_dict()).items():
        if name.endswith(QUANTIZED):
            tensors[name], tensors[name + SCALE] = quantize(tensor)
        else:
            tensors[name] = tensor.clone()
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    blocks = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    (folder / CONFIG).write_text(json.dumps({**config.to_dict(), "quantization_config": blocks}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_blocks(folder / "blocks")
    (folder / "plain").mkdir()
    tokenizer = mini_tokenizer()
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    config = preset("mini", num_hidden_layers=2, num_nextn_predict_layers=1, vocab_size=vocabulary)
    save_checkpoint(ranks.make(config), tokenizer, folder / "plain", Lineage(name="plain", stage="teacher-init"))
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes computed: one start for every case."""
    torchrun("-m", "tests.ranks", folder, cwd=folder)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def close(ours: torch.Tensor, theirs: torch.Tensor, bound: float) -> bool:
    return bool((ours - theirs).abs().max() <= bound * theirs.abs().max())


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
@pytest.mark.parametrize("name", ranks.SHAPES)
def test_two_processes_give_the_logits_and_greedy_tokens_of_one(
    both: list[dict[str, Any]], name: str, layout: str
) -> None:
    config = ranks.shape(name)
    whole = ranks.make(config)
    one = ranks.say(whole, ranks.prompts(config))
    for rank in (0, 1):
        two = both[rank]["speaking"][f"{name}/{layout}"]
        assert close(two["logits"], one["logits"], 1e-5)
        assert torch.equal(two["tokens"], one["tokens"])
    assert torch.equal(*(both[rank]["speaking"][f"{name}/{layout}"]["logits"] for rank in (0, 1)))
    total = sum(weight.numel() for weight in whole.parameters())
    for rank in (0, 1):
        assert both[rank]["speaking"][f"{name}/{layout}"]["parameters"] < 0.8 * total


@pytest.mark.parametrize("case", ranks.TRAINING)
def test_an_expert_parallel_step_is_that_of_one_process_with_the_whole_batch(
    both: list[dict[str, Any]], case: str
) -> None:
    one = ranks.trained(case, None)
    for rank in (0, 1):
        two = both[rank]["training"][case]
        assert two.keys() == one.keys()
        for name, tensor in one.items():
            assert close(two[name], tensor, 1e-5) or tensor.abs().max() < 1e-7, name


def test_a_router_that_favors_one_rank_sends_it_everything() -> None:
    """Or the case above would not be the one it says."""
    config = ranks.shape("miniature")
    config.topk_group = 1
    model = ranks.make(config)
    ranks.favor_first(model)
    chosen = model.model.layers[1].mlp.gate(torch.randn(50, config.hidden_size))[1]
    assert chosen.max() < config.n_routed_experts // 2


@pytest.mark.parametrize("transport", ["all_to_all", "all_gather"])
def test_rows_travel_there_and_their_gradients_back(both: list[dict[str, Any]], transport: str) -> None:
    first, second = (both[rank]["exchanged"][transport] for rank in (0, 1))
    # rank 0 sends 1 row to itself and 4 away, rank 1 keeps its 2
    assert torch.equal(first["moved"], torch.tensor([[0.0, 1.0]]))
    assert second["moved"].flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 100, 101, 102, 103]
    assert first["gradient"][:, 0].tolist() == [1, 10, 10, 10, 10]
    assert second["gradient"][:, 0].tolist() == [10, 10]


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
@pytest.mark.parametrize(
    ("case", "bound"),
    [("plain/{}/float32", 1e-5), ("blocks/{}/float32", 1e-5), ("blocks/{}/bfloat16", 0.05), ("blocks/{}/fp8", 0.05)],
)
def test_a_folder_loaded_in_parts_speaks_as_the_whole(
    both: list[dict[str, Any]], folder: Path, layout: str, case: str, bound: float
) -> None:
    from teacher.parallel.joins import groups_of
    from teacher.parallel.loading import load_share

    name = case.split("/")[0]
    model = load_share(folder / name, groups_of(Layout()), dtype="float32")
    one = ranks.say(model, ranks.prompts(model.config))
    for rank in (0, 1):
        two = both[rank]["folders"][case.format(layout)]
        assert close(two["logits"].float(), one["logits"], bound)
        if bound == 1e-5:
            assert torch.equal(two["tokens"], one["tokens"])


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
def test_a_rank_with_fp8_weights_keeps_about_half_the_bytes(both: list[dict[str, Any]], layout: str) -> None:
    for rank in (0, 1):
        kept, wide = (both[rank]["folders"][f"blocks/{layout}/{dtype}"]["bytes"] for dtype in ("fp8", "bfloat16"))
        assert 0.5 < kept / wide < 0.56


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "fp8"])
def test_a_plan_counts_the_bytes_a_rank_holds(
    both: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    monkeypatch.setattr("teacher.decoder.FOLDED", 0 if dtype == "fp8" else 2**20)
    shape = engine_shape(preset("mini", **BLOCKS), Layout(*ranks.LAYOUTS[layout]), dtype, "blocks")
    held = both[0]["folders"][f"blocks/{layout}/{dtype}"]
    assert shape.weight_bytes == held["bytes"] + held["made"]


def test_the_leader_speaks_for_all(both: list[dict[str, Any]], folder: Path) -> None:
    from teacher.loader import read_model

    led = both[0]["led"]
    model = read_model(folder / "plain")
    with torch.inference_mode():
        whole = model(input_ids=ranks.prompts(model.config)).logits
    assert close(led["forward"], whole, 1e-5)
    assert close(led["prefill"], whole[:, -1], 1e-5)


def test_what_the_leader_refuses_ends_nobody(both: list[dict[str, Any]]) -> None:
    assert "beyond the model's max_position_embeddings" in both[0]["led"]["refusal"]
    assert "missing: not a checkpoint folder" in both[0]["led"]["missing"]


RECIPE = """
title = "Two processes"
[problems.families.stories]
levels = [1, 2]
train = 4
test = 4
[teacher-init]
overrides = { initializer_range = 0.3, num_hidden_layers = 2 }
[harvest]
problems = "problems"
model = "teacher-init"
samples = 3
temperature = 0.7
max_tokens = 12
"""


def traces(out: Path) -> list[tuple[str, str]]:
    files = (out / "harvest/traces").glob("*.jsonl")
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return sorted((row["id"], row["text"]) for row in rows)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose inputs are made, and its harvest by one process."""
    folder = tmp_path_factory.mktemp("harvest")
    path = folder / "two.toml"
    path.write_text(RECIPE)
    result = CliRunner().invoke(app, ["run", "--recipe", str(path), "--out", str(folder / "one")])
    assert result.exit_code == 0, result.output
    return path


BOTH = ("--set", "harvest.tensor_parallel=2", "--set", "harvest.expert_parallel=2")


def test_a_harvest_on_two_processes_writes_the_traces_of_one(recipe: Path) -> None:
    folder = recipe.parent
    (folder / "two").mkdir()
    for step in ("problems", "teacher-init"):
        (folder / "two" / step).symlink_to(folder / "one" / step)
    command = ("-m", "cli.main", "harvest", "--recipe", recipe, "--out", folder / "two", *BOTH)
    done = torchrun(*command, cwd=folder)
    assert done.stdout.count("24 traces of 8 problems") == 1, done.stdout
    assert traces(folder / "two") == traces(folder / "one")
    assert len({text for _, text in traces(folder / "one")}) > 12


@pytest.mark.parametrize(
    ("processes", "arguments", "complaint"),
    [
        pytest.param(1, BOTH, "[harvest] tensor_parallel, expert_parallel: need 2 processes, this run has 1", id="one"),
        pytest.param(2, (), "[harvest] tensor_parallel, expert_parallel: need 1 processes, this run has 2", id="two"),
    ],
)
def test_another_number_of_processes_than_the_recipe_says_is_refused(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, processes: int, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", "0")
    out = recipe.parent / "one"
    arguments = ("harvest", "--recipe", str(recipe), "--out", str(out), "--set", "harvest.seed=5", *arguments)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(complaint)


@pytest.mark.parametrize(
    ("tensor", "expert", "keys", "complaint"),
    [
        (3, 1, {}, "tensor_parallel 3: does not divide num_attention_heads (4)"),
        (1, 3, {"intermediate_size": 258}, "expert_parallel 3: does not divide n_routed_experts (8)"),
        (8, 1, {"num_attention_heads": 8, "moe_intermediate_size": 20}, "moe_intermediate_size (20)"),
        (4, 4, {"vocab_size": 6}, "leaves ranks without a row of vocab_size (6)"),
    ],
)
def test_what_cannot_be_split_is_named(tensor: int, expert: int, keys: dict[str, int], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        check_layout(preset("mini", **keys), Layout(tensor, expert))
    assert complaint in str(error.value)


def test_sizes_that_share_no_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="expected one to divide the other"):
        Layout(2, 3)


def test_a_part_within_a_block_of_scales_is_refused() -> None:
    with pytest.raises(UserError, match="query rows: 64 a rank, expected a multiple of 128"):
        check_layout(preset("mini"), Layout(2, 2), fp8=True)
    check_layout(preset("v3"), Layout(8, 8), fp8=True)
    check_layout(preset("v3"), Layout(8, 1), fp8=True)


@pytest.mark.parametrize("layout", [(4, 1), (1, 4), (4, 2), (2, 4), (8, 8), (2, 8), (1, 1)])
def test_parts_of_all_ranks_make_the_whole(layout: tuple[int, int]) -> None:
    """Every number of every tensor is on as many ranks as its table says, and on one at least."""
    config = preset("mini", num_attention_heads=8, num_hidden_layers=2, attention_bias=True, q_lora_rank=24)
    state = to_published(ranks.make(config).state_dict())
    world = max(layout)
    for name, tensor in state.items():
        seen = torch.zeros(tensor.shape, dtype=torch.int64)
        for rank in range(world):
            share = share_of(name, config, Layout(*layout, rank))
            if share is not None:
                first, end = share.bounds(tensor.shape[share.dim])
                seen.narrow(share.dim, first, end - first).add_(1)
        copies = world
        if any(part in name for part in (".experts.", "shared", "embed", "lm_head")):
            copies = 1
        elif any(part in name for part in ("q_b_proj", "kv_b_proj", "o_proj", ".mlp.gate_", ".mlp.up_", ".mlp.down_")):
            copies = world // layout[0]
        assert (seen == copies).all(), (name, seen.unique())


def test_bounds_of_a_length_that_does_not_divide_end_with_it() -> None:
    assert [Share(0, part, 4).bounds(63) for part in range(4)] == [(0, 16), (16, 32), (32, 48), (48, 63)]
