"""What a table may say of the model it speaks with, in harvest and bench alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cli.loading import Folders
from cli.samplers import engine_sampler
from distill.checkpoints import Lineage, save_checkpoint
from distill.harvest import HarvestConfig
from distill.problems.vocabulary import mini_tokenizer
from distill.records import Problem
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import asking
from evals.bench import BenchConfig
from teacher.config import preset
from teacher.model import DeepseekForCausalLM

VALUES: dict[str, Any] = {
    "dtype": "bfloat16",
    "tensor_parallel": 2,
    "expert_parallel": 2,
    "attention_backend": "sdpa",
    "experts_backend": "grouped_mm",
    "cache_gb": 1.0,
    "weights": "int8",
}
PROBLEM = Problem(id="p", kind="answer", prompt="2 + 3", answer="5", source="toy", split="test")


@pytest.mark.parametrize("key", ENGINE_KEYS)
def test_keys_of_the_engine_mean_nothing_where_nothing_is_sampled_by_it(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key}: sampler 'oracle' has no use for it"):
        HarvestConfig(problems="p", sampler="oracle", error_rate=0.0, max_tokens=8, **{key: VALUES[key]})
    with pytest.raises(ValidationError, match=f"{key}: means nothing for traces"):
        BenchConfig(problems="p", traces=("t",), **{key: VALUES[key]})
    BenchConfig(problems="p", checkpoints=("c",), max_tokens=8, **{key: VALUES[key]})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"weights": "int8", "expert_parallel": 2}, "int8 goes with one process"),
        ({"weights": "int8", "experts_backend": "reference"}, "int8 experts have one way only"),
        ({"dtype": "fp8", "experts_backend": "triton"}, "experts kept in fp8 have one way only"),
    ],
)
def test_a_choice_that_would_be_passed_over_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        EngineConfig(**fields)


def test_backends_of_a_table_speak_and_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = mini_tokenizer()
    torch.manual_seed(0)
    model = DeepseekForCausalLM(preset("mini", num_hidden_layers=2, vocab_size=max(tokenizer.get_vocab().values()) + 1))
    save_checkpoint(model, tokenizer, tmp_path, Lineage(name="toy", stage="teacher-init"))
    config = EngineConfig(attention_backend="reference", experts_backend="reference")
    with caplog.at_level("INFO"):
        sampler = engine_sampler(tmp_path, [PROBLEM], asking("none"), 4, 1, config)
    assert sampler.identity.name == tmp_path.name
    told = [message for message in caplog.messages if "backend" in message]
    assert [message.split(":")[0] for message in told] == ["attention backend reference", "experts backend reference"]
    loaded, _ = Folders().engine(tmp_path, device="cpu", backends=config.backends)
    assert {layer.self_attn.backend for layer in loaded.model.model.layers} == {"reference"}
    assert loaded.model.model.layers[1].mlp.experts.backend == "reference"
