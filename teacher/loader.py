"""Open a teacher folder: config, weights and tokenizer, checked before anything is built."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill.checkpoints import CONFIG, checkpoint_fingerprint, read_config
from distill.errors import UserError
from distill.sampling.protocols import LoadedModel
from teacher.checkpoint import read_tensors, tensor_names, to_published
from teacher.config import FORMATS, TeacherConfig
from teacher.mtp import shared_copies

if TYPE_CHECKING:
    from teacher.model import DeepseekForCausalLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_teacher(config: dict[str, Any]) -> bool:
    """True for the `config.json` of a folder this room opens."""
    return config.get("model_type") in FORMATS


def load_teacher(
    folder: Path,
    dtype: str = "float32",
    device: str = "cpu",
    experts_backend: str = "grouped_mm",
    attention_backend: str = "sdpa",
) -> LoadedModel:
    """Model and tokenizer of a folder. Raises UserError naming the folder and what is wrong with it."""
    from transformers import AutoTokenizer

    model = read_model(folder, dtype, device, experts_backend, attention_backend)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no readable tokenizer ({str(error).splitlines()[0]})") from error
    return LoadedModel(model, tokenizer, folder, checkpoint_fingerprint(folder))


def read_model(
    folder: Path,
    dtype: str = "float32",
    device: str = "cpu",
    experts_backend: str = "grouped_mm",
    attention_backend: str = "sdpa",
) -> "DeepseekForCausalLM":
    """The model of a folder, in evaluation mode."""
    from teacher.model import DeepseekForCausalLM

    config = read_teacher_config(folder)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype}: unknown; there are {', '.join(DTYPES)}")
    with torch.device("meta"):
        model = DeepseekForCausalLM(config, experts_backend, attention_backend)
    expected = {name: tuple(tensor.shape) for name, tensor in to_published(model.state_dict()).items()}
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    check_further(folder, tensor_names(folder), config)
    copies = shared_copies(config)
    tensors = read_tensors(folder, expected, {name: expected[source] for name, source in copies.items()})
    for name, source in copies.items():
        if name in tensors and not torch.equal(tensors.pop(name), tensors[source]):
            raise UserError(f"{folder}: tensor {name}: differs from {source}, which it is a copy of")
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    return _settle(model, DTYPES[dtype], device)


def read_teacher_config(folder: Path) -> TeacherConfig:
    """The checked configuration of a folder."""
    values = read_config(folder)
    if not is_teacher(values):
        expected = " or ".join(map(repr, FORMATS))
        raise UserError(f"{folder / CONFIG}: model_type {values['model_type']!r}, expected {expected}")
    if values.get("quantization_config"):
        raise UserError(f"{folder / CONFIG}: quantization_config is set; quantized teachers are not read")
    missing = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if key not in values]
    if missing:
        raise UserError(f"{folder / CONFIG}: key {missing[0]}: missing")
    try:
        config: TeacherConfig = FORMATS[values["model_type"]].from_dict(values)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{folder / CONFIG}: {str(error).splitlines()[0]}") from error
    return config


def check_further(folder: Path, names: Collection[str], config: TeacherConfig) -> None:
    """Raise UserError where a configuration announces modules for further tokens and the weights lack them."""
    for layer in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        if not any(name.startswith(f"model.layers.{layer}.") for name in names):
            raise UserError(
                f"{folder / CONFIG}: key num_nextn_predict_layers: {config.num_nextn_predict_layers}, but the folder "
                f"holds no tensor of model.layers.{layer}; set the key to {layer - config.num_hidden_layers} to read it"
            )


def _settle(model: "DeepseekForCausalLM", dtype: torch.dtype, device: str) -> "DeepseekForCausalLM":
    """Cast and move; the correction bias stays float32, a bfloat16 one would steer other experts."""
    biases = {name: buffer.float() for name, buffer in model.named_buffers() if name.endswith("correction_bias")}
    model.to(device=device, dtype=dtype)
    for name, bias in biases.items():
        module = model.get_submodule(name.rpartition(".")[0])
        module.e_score_correction_bias = bias.to(device)
    model.config.dtype = dtype
    model.eval()
    return model
