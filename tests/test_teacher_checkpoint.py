"""Teacher folders: bit-exact round trips through transformers, and folders that lie."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM

from distill.errors import UserError
from teacher.config import preset
from teacher.loader import is_teacher, read_model
from teacher.model import DeepseekForCausalLM
from tests.teacher_folders import WEIGHTS, make


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path)
    return tmp_path


def assert_same(state, other) -> None:
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(
    "keys",
    [{}, {"q_lora_rank": 24, "attention_bias": True}, {"tie_word_embeddings": True}, {"first_k_dense_replace": 0}],
    ids=str,
)
def test_ours_to_transformers_to_ours_is_bit_exact(tmp_path, keys) -> None:
    model = make(**keys)
    model.save_pretrained(tmp_path / "ours")
    peer = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours")
    assert_same(model.state_dict(), peer.state_dict())
    ids = torch.arange(20)[None]
    torch.testing.assert_close(model(ids).logits, peer(ids).logits, rtol=1e-5, atol=1e-6)
    peer.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "theirs"))
    assert_same(ours, theirs)
    assert_same(model.state_dict(), read_model(tmp_path / "theirs").state_dict())


def test_each_expert_has_its_published_names(folder) -> None:
    names = load_file(folder / WEIGHTS).keys()
    for part in ("gate_proj", "up_proj", "down_proj"):
        assert f"model.layers.1.mlp.experts.7.{part}.weight" in names
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in names
    assert "model.layers.0.self_attn.kv_a_proj_with_mqa.weight" in names
    assert not any("experts.gate_up_proj" in name for name in names)


def test_a_sharded_folder_reads_back(tmp_path) -> None:
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(model.state_dict(), read_model(tmp_path).state_dict())


def test_load_state_dict_takes_the_names_on_disk_as_a_resuming_trainer_does(folder) -> None:
    model = DeepseekForCausalLM(preset("mini", num_hidden_layers=2))
    result = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    assert result.missing_keys == result.unexpected_keys == []
    assert_same(model.state_dict(), make().state_dict())


def test_bfloat16_reading_keeps_the_correction_bias_in_float32(folder) -> None:
    model = read_model(folder, dtype="bfloat16")
    assert model.model.layers[1].mlp.gate.e_score_correction_bias.dtype == torch.float32
    assert model.model.layers[1].mlp.experts.down_proj.dtype == torch.bfloat16
    assert torch.equal(
        model.model.layers[1].mlp.gate.e_score_correction_bias,
        make().model.layers[1].mlp.gate.e_score_correction_bias,
    )


def test_a_read_model_trains(folder) -> None:
    model = read_model(folder).train()
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_is_teacher_knows_its_own() -> None:
    assert is_teacher({"model_type": "deepseek_v3"})
    assert not is_teacher({"model_type": "llama"})


def change(folder, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def poison(value):
    def edit(tensors) -> None:
        tensors["lm_head.weight"][3, 5] = value

    return edit


NORM = "model.norm.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(EXPERT), f"missing {EXPERT}"),
        (lambda t: t.update({"model.evil.weight": torch.ones(1)}), "unexpected model.evil.weight"),
        (lambda t: t.update({NORM: torch.ones(63)}), rf"tensor {NORM}: shape \(63,\), expected \(64,\)"),
        (poison(float("nan")), r"tensor lm_head.weight: not finite: 1 of 4,096"),
        (poison(float("inf")), r"tensor lm_head.weight: not finite: 1 of 4,096"),
        (lambda t: t.clear(), r"missing .* and \d+ more"),
    ],
    ids=["missing expert", "left over", "wrong shape", "nan", "infinity", "nothing in it"],
)
def test_a_folder_whose_tensors_do_not_match_is_refused_by_name(folder, edit, message) -> None:
    change(folder, edit)
    with pytest.raises(UserError, match=message):
        read_model(folder)


def index(folder, weight_map) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "weights.bin", "..", "", 7, None]
)
def test_an_index_that_points_elsewhere_is_refused(folder, name) -> None:
    index(folder, {NORM: name})
    with pytest.raises(UserError, match="weight_map"):
        read_model(folder)


def test_an_index_naming_a_missing_file_is_refused(folder) -> None:
    index(folder, {NORM: "model-00001-of-00002.safetensors"})
    with pytest.raises(UserError, match=r"names model-00001-of-00002.safetensors, which is not in the folder"):
        read_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index_is_refused(folder, text) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError):
        read_model(folder)


def test_a_tensor_in_two_files_is_refused(folder) -> None:
    save_file({NORM: torch.ones(64)}, folder / "again.safetensors")
    index(folder, {NORM: WEIGHTS, "x": "again.safetensors"})
    with pytest.raises(UserError, match=f"tensor {NORM}: also in "):
        read_model(folder)


def test_pickle_is_named_and_never_opened(folder) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(UserError, match=r"pytorch_model.bin is pickle and never opened"):
        read_model(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x80" * 8], ids=["empty", "noise", "huge header"])
def test_a_file_that_is_no_safetensors_is_refused(folder, content) -> None:
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=r"not a( whole)? safetensors file"):
        read_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type: llama, expected 'deepseek_v3'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"num_hidden_layers": 3}, "missing model.layers.2"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config.quant_method: awq, expected 'fp8'"),
        ({"n_group": 0}, "n_group: 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_does_not_fit_is_refused(folder, change, message) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        read_model(folder)
