"""Quantize: what is written reloads exactly, also after a forward, and still trains adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

from distill.checkpoints import Lineage, read_lineage, save_checkpoint
from distill.errors import UserError
from distill.problems.vocabulary import END, PAD, UNKNOWN, mini_tokenizer, vocabulary
from distill.progress import Progress
from distill.prompts import WORDS, Chat
from distill.quantized import keep_unpacked
from distill.records import Params
from distill.runs import Report
from distill.sampling.engine import Engine
from students.decoder import KVDecoder
from students.init import StudentInitConfig, student_init
from students.loader import load_student
from students.quantize import QuantizeConfig, quantize

QUIET = Progress("quiet")
METHODS = ("int8", "nf4", "fp4")
IDS = torch.arange(5, 45)[None]


def fixed_tokenizer() -> PreTrainedTokenizerFast:
    """160 words whatever the families say, so that the figures below are of one and the same model."""
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(vocabulary()[:160])}, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=WORDS, **special)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    config = StudentInitConfig(spec="mini-95k", overrides={"init_std": 0.1})
    student_init(folder, config, tokenizer=fixed_tokenizer(), seed=0, progress=QUIET)
    return folder


@pytest.fixture(scope="module")
def quantized(original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Report]]:
    found = {}
    for method in METHODS:
        out = tmp_path_factory.mktemp(method)
        found[method] = (out, run(original, out, method))
    return found


def run(model: Path, out: Path, method: Any, **settings: Any) -> Report:
    config = QuantizeConfig(model="student", method=method, **settings)
    return quantize(model, out, config, seed=0, progress=QUIET)


def quantize_in_memory(model: Path, method: str) -> Any:
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": method}
    settings = BitsAndBytesConfig(**({"load_in_8bit": True} if method == "int8" else four_bit))
    return AutoModelForCausalLM.from_pretrained(model, quantization_config=settings, device_map="cpu")


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return torch.as_tensor(model(input_ids=IDS, use_cache=False).logits)


def test_fewer_bits_are_smaller_and_less_exact(quantized: dict[str, tuple[Path, Report]]) -> None:
    int8, nf4, fp4 = (quantized[method][1].counts for method in METHODS)
    assert int8["bytes_before"] > 2.5 * int8["bytes_after"]
    assert int8["bytes_after"] > nf4["bytes_after"] == fp4["bytes_after"]
    assert 0 < int8["logit_error"] < 0.03
    assert int8["logit_error"] < nf4["logit_error"] < fp4["logit_error"] < 0.5


def test_the_share_counts_layers_against_all_weights(quantized: dict[str, tuple[Path, Report]]) -> None:
    share = quantized["nf4"][1].counts["share_quantized"]
    assert share == pytest.approx(2 * (4 * 64 * 64 + 3 * 64 * 128) / 92_480, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_holds_exactly_the_quantized_model(
    original: Path, quantized: dict[str, tuple[Path, Report]], method: str
) -> None:
    in_memory = quantize_in_memory(original, method)
    keep_unpacked(in_memory)
    expected = logits_of(in_memory.eval())
    torch.testing.assert_close(logits_of(load_student(quantized[method][0]).model), expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_save_after_a_forward_is_not_corrupt(original: Path, tmp_path: Path, method: str) -> None:
    """On avx512_bf16 a forward in eval mode would repack the weights, and the save write them wrong."""
    in_memory = quantize_in_memory(original, method)
    keep_unpacked(in_memory)
    expected = logits_of(in_memory.eval())
    save_checkpoint(in_memory, mini_tokenizer(), tmp_path, Lineage(name="again", stage="quantize"))
    torch.testing.assert_close(logits_of(load_student(tmp_path).model), expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks by the old name
@pytest.mark.parametrize("method", METHODS)
def test_adapters_still_train_after_an_evaluation(quantized: dict[str, tuple[Path, Report]], method: str) -> None:
    """The packed path has no gradients, and said nothing about it."""
    from peft import LoraConfig, get_peft_model

    model = load_student(quantized[method][0]).model
    logits_of(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    adapted.train()
    adapted(input_ids=IDS, labels=IDS).loss.backward()
    gradients = [weight.grad for name, weight in adapted.named_parameters() if "lora_B" in name]
    assert len(gradients) == 4
    assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_the_engine_decodes_quantized_layers(quantized: dict[str, tuple[Path, Report]], method: str) -> None:
    loaded = load_student(quantized[method][0])
    engine = Engine(KVDecoder(loaded.model), Chat(loaded.tokenizer), slots=2, capacity=64)
    prompt = IDS[0, :20].tolist()
    (sample,) = engine.rollout([prompt], Params(max_tokens=5, temperature=0), 1, [0])[0]
    with torch.no_grad():
        logits = loaded.model(torch.tensor([prompt])).logits[0, -1]
    assert sample.ids[0] == int(logits.argmax())
    assert sample.logprobs[0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=0.02)


def test_lineage_names_the_parent(quantized: dict[str, tuple[Path, Report]]) -> None:
    lineage = read_lineage(quantized["int8"][0])
    assert lineage is not None
    assert lineage.stage == "quantize"
    assert lineage.parent is not None
    assert lineage.parent.stage == "student-init"


def test_layers_of_awkward_shape_are_skipped_and_listed(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    config = StudentInitConfig(spec="mini-95k", overrides={"ffn": 48, "layers": 1})
    student_init(model, config, tokenizer=mini_tokenizer(), seed=0, progress=QUIET)
    out.mkdir()
    report = run(model, out, "nf4")
    assert report.counts["skipped"] == 3
    listed = [line for line in report.lines if line.startswith("not quantized")]
    assert [line.split()[3] for line in listed] == [
        f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    assert report.counts["logit_error"] < 0.2
    logits_of(load_student(out).model)


def test_a_student_without_any_fitting_layer_is_told_to_use_int8(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    config = StudentInitConfig(spec="mini-46k")
    student_init(model, config, tokenizer=mini_tokenizer(), seed=0, progress=QUIET)
    with pytest.raises(UserError, match=r"no layer fits nf4.*use int8"):
        run(model, out, "nf4")


def test_a_quantized_checkpoint_is_not_quantized_again(
    quantized: dict[str, tuple[Path, Report]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="already quantized"):
        run(quantized["nf4"][0], tmp_path, "int8")
