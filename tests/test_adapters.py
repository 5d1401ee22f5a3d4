"""Adapters: what gets one, what they train over whole and quantized bases, and what the merged checkpoint is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from cli.loading import Folders
from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.runs import Report
from distill.train.adapters import FOLDER, adapt, find_layers
from distill.train.curve import SftPoint
from distill.train.lora import LoraConfig
from distill.train.resume import States
from distill.train.sft import sft
from distill.train.sft_table import SftConfig
from students.init import StudentInitConfig, student_init
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from tests.test_sft import EXAMPLES

QUIET = Progress("quiet")
ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
RANK_4 = {"rank": 4}
IDS = torch.arange(5, 45)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples, and a student of each kind."""
    base = tmp_path_factory.mktemp("lora")
    write_jsonl(base / "examples.jsonl", EXAMPLES)
    for spec in ("mini-95k", "mini-95k-qwen2", "mini-95k-qwen3"):
        (base / spec).mkdir()
        config = StudentInitConfig(spec=spec, overrides={"init_std": 0.1})
        student_init(base / spec, config, tokenizer=mini_tokenizer(), seed=0, progress=QUIET)
    return base


def train(
    base: Path, out: Path, model: str = "mini-95k", lora: dict[str, Any] | None = RANK_4, **fields: Any
) -> Report:
    out.mkdir(exist_ok=True)
    common: dict[str, Any] = {
        "steps": 4,
        "tokens_per_batch": 128,
        "log_every": 1,
        "save_every": 2,
        "warmup_steps": 0,
        "optimizer": "adamw",
        "held_out": 8,
        "allow_contaminated": True,
        "lora": lora,
    }
    config = SftConfig(data="data", model="model", **(common | fields))
    return sft(base / "examples.jsonl", base / model, out, config, loader=Folders(), seed=0, progress=QUIET)


def losses(out: Path) -> list[float]:
    return [row.loss for row in read_jsonl(out / "curve.jsonl", SftPoint)]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's old name for it
@pytest.mark.parametrize("model", ["mini-95k", "mini-95k-qwen2", "mini-95k-qwen3"])
def test_the_merged_checkpoint_says_what_peft_says_of_adapter_and_base(model: str, base: Path, tmp_path: Path) -> None:
    report = train(base, tmp_path, model)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    original = AutoModelForCausalLM.from_pretrained(base / model)
    before = logits(original)
    with_adapter = logits(PeftModel.from_pretrained(original, tmp_path / FOLDER))
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path))
    assert (with_adapter - before).abs().max() > 1e-2, "nothing was learned"
    torch.testing.assert_close(merged, with_adapter, atol=1e-4, rtol=1e-4)
    assert report.counts["loss_merged"] == pytest.approx(report.counts["loss_as_trained"], abs=1e-5)


def test_only_layers_with_an_adapter_are_moved(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path, lora={"rank": 4, "targets": ["q_proj", "down_proj"]})
    begun, ended = (load_file(folder / "model.safetensors") for folder in (base / "mini-95k", tmp_path))
    moved = {name.split(".")[-2] for name in begun if not torch.equal(begun[name], ended[name])}
    assert moved == {"q_proj", "down_proj"}


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_a_quantized_base_goes_on_learning_after_it_was_measured(held: str, base: Path, tmp_path: Path) -> None:
    # Held-out rows are measured in eval mode with every state saved, here after step 2: on a processor with
    # avx512_bf16 bitsandbytes would repack the base and give no gradient from then on.
    report = train(base, tmp_path, lora={"rank": 4, "base": held, "merge_into": "base"}, steps=6)
    assert losses(tmp_path)[5] < losses(tmp_path)[3] < losses(tmp_path)[0]
    assert report.counts["loss_merged"] == pytest.approx(report.counts["loss_as_trained"], rel=0.01)
    assert any("bytes held" in line for line in report.lines)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


def test_merged_into_the_original_weights_quantization_errors_are_gone(base: Path, tmp_path: Path) -> None:
    report = train(base, tmp_path, lora={"rank": 4, "base": "nf4"}, learning_rate=1e-12)
    begun, ended = (load_file(folder / "model.safetensors") for folder in (base / "mini-95k", tmp_path))
    assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in begun)
    assert report.counts["loss_merged"] != report.counts["loss_as_trained"]
    assert any("merged into the original weights" in line and "9 held-out rows" in line for line in report.lines)


def test_layers_no_4_bit_kernel_takes_stay_whole_and_are_named(base: Path) -> None:
    loaded = Folders().load(base / "mini-95k")
    loaded.model.set_submodule("model.layers.0.mlp.down_proj", torch.nn.Linear(48, 64, bias=False))
    adapters = adapt(loaded.model, LoraConfig(base="nf4"), seed=0, device="cpu")
    assert adapters.kept_whole == ("model.layers.0.mlp.down_proj",)
    assert "whole for their shape: model.layers.0.mlp.down_proj" in adapters.lines[1]
    assert adapters.base_bytes < adapters.whole_bytes / 2


def test_a_state_holds_adapters_and_their_moments_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(States, "clear", lambda self: None)
    sizes = {}
    for name, lora in (("adapters", RANK_4), ("whole", None)):
        train(base, tmp_path / name, lora=lora)
        state = tmp_path / name / "resume" / "step-4"
        sizes[name] = [(state / file).stat().st_size for file in ("weights.pt", "optimizer.pt")]
    numbers = sum(
        tensor.numel() for tensor in load_file(tmp_path / "adapters" / FOLDER / "adapter_model.safetensors").values()
    )
    assert 4 * numbers < sizes["adapters"][0] < 8 * numbers
    assert sizes["adapters"][1] < sizes["whole"][1] / 2


@pytest.mark.parametrize("fields", [{"gradient_checkpointing": True}, {"packing": True}], ids=["recomputed", "packed"])
def test_another_way_through_the_same_rows_trains_adapters_alike(
    fields: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    for name, changes in (("plain", {}), ("other", fields)):
        train(base, tmp_path / name, **changes)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "other"), rel=1e-4)


def test_a_teacher_has_adapters_on_all_but_its_routed_experts(base: Path, tmp_path: Path) -> None:
    tokenizer = mini_tokenizer()
    config = preset(
        "mini",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_nextn_predict_layers=1,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    DeepseekForCausalLM(config).save_pretrained(base / "teacher")
    tokenizer.save_pretrained(base / "teacher")
    report = train(base, tmp_path, "teacher", balance_loss=0.1)
    begun, ended = (load_file(folder / "model.safetensors") for folder in (base / "teacher", tmp_path))
    moved = {name for name in begun if not torch.equal(begun[name], ended[name])}
    assert {name.split(".")[-2] for name in moved} >= {"o_proj", "kv_b_proj", "kv_a_proj_with_mqa", "down_proj"}
    assert not any(".experts." in name or ".gate." in name or ".layers.2." in name for name in moved)
    assert any(".shared_experts." in name for name in moved)
    assert report.counts["loss_merged"] == pytest.approx(report.counts["loss_as_trained"], abs=1e-5)


def test_another_family_learns_through_automodel(base: Path, tmp_path: Path) -> None:
    tokenizer = mini_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer), num_key_value_heads=1, pad_token_id=tokenizer.pad_token_id, **sizes, **ends
        )
    ).save_pretrained(base / "mistral")
    tokenizer.save_pretrained(base / "mistral")
    train(base, tmp_path, "mistral")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    with pytest.raises(UserError, match="model_type mistral: no decoder; there are llama, qwen2, qwen3"):
        Folders().decoder(Folders().load(tmp_path).model)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("q_prj", r"'q_prj': no such linear layer \(did you mean q_proj\?\); there are down_proj, gate_proj, k_proj"),
        ("lm_head", "the head is shared by every token"),
    ],
)
def test_a_target_the_model_does_not_have_is_named_beside_those_it_has(
    target: str, complaint: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        train(base, tmp_path, lora={"targets": [target]})


def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16))
    with pytest.raises(UserError, match="model_type gpt2 has no linear layers"):
        find_layers(model, ())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"lora": {"base": "nf4"}, "expert_parallel": 2}, "lora goes with neither expert_parallel"),
        ({"lora": {}, "bias_update": 1e-3}, "mtp_loss and bias_update have nothing to move"),
        ({"lora": {}, "learning_rate": 1e-3}, "with optimizer = 'muon' learning_rate trains nothing"),
        ({"lora": {"merge_into": "base"}}, "the full base is the original"),
        ({"lora": {"rnak": 3}}, "rnak"),
    ],
)
def test_a_table_that_would_train_nothing_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SftConfig(data="a", model="b", steps=1, **fields)


def test_an_adapter_that_takes_no_part_is_named(base: Path) -> None:
    model = Folders().load(base / "mini-95k").model
    adapters = adapt(model, LoraConfig(), seed=0, device="cpu")
    with pytest.raises(UserError, match=r"28 adapters got no gradient \(model.layers.0.self_attn.q_proj.lora_A"):
        adapters.check_gradients(model)
