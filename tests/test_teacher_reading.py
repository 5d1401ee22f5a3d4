"""Reading: FP8 like its dequantized twin bit for bit, parts and nothing but parts, little memory beside the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM, FineGrainedFP8Config

from distill.errors import UserError
from distill.progress import Progress
from teacher import checkpoint
from teacher.checkpoint import open_weights, read_tensors
from teacher.convert import convert
from teacher.loader import read_model
from tests.teacher_folders import FP8, WEIGHTS, by_hand, edit_config, fp8_folder, make, split

EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"  # 160 x 136
GATE = "model.layers.1.mlp.gate.weight"


EVEN = {
    "hidden_size": 256, "q_lora_rank": 128, "kv_lora_rank": 112, "v_head_dim": 16, "moe_intermediate_size": 128,
    "intermediate_size": 256,
}  # fmt: skip
"""Every width is a multiple of 128 or below it."""


@pytest.fixture
def folder(tmp_path) -> Path:
    return fp8_folder(tmp_path / "fp8")


def twin(folder: Path, dtype: torch.dtype) -> Path:
    """The same folder, dequantized by the definition."""
    out = folder.with_name("wide")
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    edit_config(out, quantization_config=None)
    save_file(by_hand(load_file(folder / WEIGHTS), dtype), out / WEIGHTS)
    return out


def assert_same(state, other) -> None:
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("scale_fmt", "packed"), [("float", False), ("ue8m0", False), ("ue8m0", True)], ids=["V3", "V3.1", "e8m0 bytes"]
)
def test_fp8_reads_as_its_dequantized_twin_bit_for_bit(tmp_path, scale_fmt, packed, dtype):
    folder = fp8_folder(tmp_path / "fp8", scale_fmt, packed)
    model = read_model(folder, dtype)
    assert_same(model.state_dict(), read_model(twin(folder, getattr(torch, dtype)), dtype).state_dict())
    assert getattr(model.config, "quantization_config", None) is None


def test_fp8_of_whole_blocks_reads_as_transformers_dequantizes_it(tmp_path):
    """It takes the block size from the scale's shape, which is wrong, or refused, where an edge is ragged."""
    folder = fp8_folder(tmp_path / "fp8", **EVEN)
    ours = read_model(folder, "bfloat16")
    peer = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    assert_same(ours.state_dict(), peer.state_dict())


def test_a_tensor_larger_than_a_piece_reads_the_same(folder, monkeypatch):
    whole = read_model(folder, "bfloat16").state_dict()
    monkeypatch.setattr(checkpoint, "PIECE", 1000)  # 7 rows of 136: pieces begin inside blocks
    assert_same(whole, read_model(folder, "bfloat16").state_dict())


def test_a_scale_may_lie_in_another_file_than_its_weight(folder):
    whole = read_model(folder, "bfloat16").state_dict()
    split(folder, lambda name: int(name.endswith("_scale_inv")))
    assert_same(whole, read_model(folder, "bfloat16").state_dict())


def test_a_read_fp8_folder_is_saved_as_plain_bfloat16_in_shards(folder, tmp_path):
    model = read_model(folder, "bfloat16")
    model.save_pretrained(tmp_path / "out", max_shard_size="300KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    kinds = {stored.dtype for stored in open_weights(tmp_path / "out").stored.values()}
    assert kinds == {"BF16", "F32"}  # the correction bias alone is F32
    assert_same(model.state_dict(), read_model(tmp_path / "out", "bfloat16").state_dict())
    assert_same(model.state_dict(), DeepseekV3ForCausalLM.from_pretrained(tmp_path / "out").state_dict())


def test_angles_that_older_folders_store_are_left_alone(tmp_path):
    make().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    plain = read_model(tmp_path).state_dict()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, tmp_path / WEIGHTS)
    assert_same(plain, read_model(tmp_path).state_dict())


@pytest.mark.parametrize("tied", [False, True])
def test_layers_for_further_tokens_are_read_and_converted_from_fp8_with_their_copies(tmp_path, tied):
    folder = fp8_folder(tmp_path / "fp8", num_nextn_predict_layers=1, tie_word_embeddings=tied)
    model = read_model(folder, "bfloat16")
    assert_same(model.state_dict(), read_model(twin(folder, torch.bfloat16), "bfloat16").state_dict())
    convert(folder, tmp_path / "out")
    written = load_file(tmp_path / "out" / WEIGHTS)
    assert_same(by_hand(load_file(folder / WEIGHTS), torch.bfloat16), written)
    assert "model.layers.2.shared_head.head.weight" in written


def test_a_copy_that_differs_is_refused(tmp_path):
    folder = fp8_folder(tmp_path / "fp8", num_nextn_predict_layers=1)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.2.embed_tokens.weight"][63, 159] += 1
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"model.layers.2.embed_tokens.weight: differs from model.embed_tokens.weight"):
        read_model(folder)


PUBLISHED = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "bos_token_id": 0, "eos_token_id": 1,
    "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 256, "initializer_range": 0.02,
    "intermediate_size": 256, "kv_lora_rank": 112, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 128, "moe_layer_freq": 1, "n_group": 2, "n_routed_experts": 4, "n_shared_experts": 1,
    "norm_topk_prob": True, "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 4, "num_nextn_predict_layers": 0, "q_lora_rank": 128, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16, "quantization_config": FP8, "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "topk_group": 2, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1",
    "use_cache": True, "v_head_dim": 16, "vocab_size": 64,
}  # fmt: skip
"""The keys of DeepSeek-V3's config.json, toy sizes."""


def test_a_config_with_the_published_keys_speaks_like_transformers(tmp_path):
    folder = fp8_folder(tmp_path / "fp8", **EVEN)
    (folder / "config.json").write_text(json.dumps(PUBLISHED))
    ours = read_model(folder)
    assert ours.config.rope_parameters["factor"] == 40
    convert(folder, tmp_path / "wide", to="fp32")
    peer = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "wide", dtype=torch.float32)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(ours(ids).logits, peer(ids).logits, rtol=1e-5, atol=1e-6)


# Parts


@pytest.mark.parametrize(
    "part",
    [(), (slice(0, 80),), (slice(80, 160),), (slice(None), slice(68, 136)), (slice(127, 129), slice(1, 130))],
    ids=["all", "first rows", "last rows", "last columns", "across four blocks"],
)
def test_a_part_is_that_part_of_the_whole(folder, part):
    whole = by_hand(load_file(folder / WEIGHTS), torch.bfloat16)
    read = read_tensors(folder, {EXPERT: part, GATE: (slice(1, 3),)}, torch.bfloat16)
    assert_same(read, {EXPERT: whole[EXPERT][part], GATE: whole[GATE][1:3]})


class Counting:
    """A file that counts the bytes taken from it."""

    def __init__(self, file, counts) -> None:
        self.file, self.counts = file, counts

    def get_tensor(self, name):
        raise AssertionError(f"{name} taken whole")

    def get_slice(self, name):
        return CountingSlice(name, self.file.get_slice(name), self.counts)


class CountingSlice:
    def __init__(self, name, view, counts) -> None:
        self.name, self.view, self.counts = name, view, counts

    def __getitem__(self, key):
        taken = self.view[key]
        self.counts[self.name] = self.counts.get(self.name, 0) + taken.nbytes
        return taken


def test_a_rank_takes_only_the_bytes_of_its_parts_and_opens_only_their_files(folder, monkeypatch):
    split(folder, lambda name: int("experts.3." in name))
    counts, files = {}, []
    open_file = checkpoint._open

    def counted(path):
        files.append(path.name)
        return Counting(open_file(path), counts)

    monkeypatch.setattr(checkpoint, "_open", counted)
    read_tensors(folder, {EXPERT: (slice(0, 40),)}, torch.bfloat16)
    assert counts == {EXPERT: 40 * 136, f"{EXPERT}_scale_inv": 2 * 4}  # one row of two blocks, not two rows
    assert files == ["model-00001.safetensors"]
    (folder / "model-00000.safetensors").write_bytes(b"not looked at")
    read_tensors(folder, {EXPERT: (slice(0, 40),)}, torch.bfloat16)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"model.evil.weight": ()}, "missing model.evil.weight"),
        ({GATE: (slice(0, 9),)}, f"tensor {GATE}: range"),
        ({GATE: (slice(0, 4, 2),)}, "range"),
        ({GATE: (slice(0, 4),) * 3}, "3 ranges for shape"),
    ],
    ids=["no such tensor", "past the end", "with a step", "too many"],
)
def test_a_part_that_is_not_there_is_refused(folder, wanted, message):
    with pytest.raises(UserError, match=message):
        read_tensors(folder, wanted, torch.bfloat16)


def test_progress_counts_megabytes_to_the_last(folder, monkeypatch):
    progress = Progress("quiet")
    tasks = []
    begin = Progress.task

    def remembered(self, *args):
        tasks.append(args)
        return begin(self, *args)

    monkeypatch.setattr(Progress, "task", remembered)
    monkeypatch.setattr(checkpoint, "MEGABYTE", 1000)
    read_model(folder, "bfloat16", progress=progress)
    ((label, total, unit),) = tasks
    stored = open_weights(folder).stored.values()
    assert (label, unit) == ("read fp8", "MB")
    assert total == -(-sum(tensor.bytes for tensor in stored) // 1000)


# Memory

MEASURED = """
import sys, threading, time
from pathlib import Path
import torch
from teacher.convert import convert
from teacher.loader import read_model

def private():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) * 1024

def peak(act, result):
    # what `act` needs at its peak beside the tensors it returns
    before, highest, done = private(), 0, threading.Event()
    def watch():
        nonlocal highest
        while not done.wait(0.0005):
            highest = max(highest, private())
    watcher = threading.Thread(target=watch)
    watcher.start()
    size = result(act())
    done.set()
    watcher.join()
    return size, highest - before - size

small, large, out = map(Path, sys.argv[1:])
read_model(small, "bfloat16")  # code, allocator, thread pools
convert(small, out / "small")
print(*peak(lambda: read_model(large, "bfloat16"), lambda model: sum(t.nbytes for t in model.state_dict().values())))
print(*peak(lambda: convert(large, out / "large"), lambda report: 0))
"""
LARGE = {"hidden_size": 1024, "moe_intermediate_size": 1024, "n_routed_experts": 16, "vocab_size": 8192}


def test_reading_and_converting_need_little_beside_the_model(folder, tmp_path):
    fp8_folder(tmp_path / "large", **LARGE)
    (tmp_path / "out").mkdir()
    script = [sys.executable, "-c", MEASURED, folder, tmp_path / "large", tmp_path / "out"]
    # What the allocator keeps for later is not what reading needs: one arena, free memory given back at once.
    tight = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        script, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent, env=tight
    )
    (model, reading), (_, converting) = (map(int, line.split()) for line in done.stdout.splitlines()[-2:])
    embedding = LARGE["vocab_size"] * LARGE["hidden_size"] * 4  # the largest tensor on disk, made wide
    assert model > 140e6
    assert reading < embedding, f"{reading:,} bytes beside a model of {model:,}"
    assert converting < embedding, f"{converting:,} bytes for a file of {model:,}"
