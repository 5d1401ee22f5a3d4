"""Open a teacher folder: config, weights and tokenizer, checked before anything is built."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from distill.checkpoints import CONFIG, checkpoint_fingerprint, read_config
from distill.errors import UserError, shown
from distill.progress import Progress
from distill.records import reason
from distill.sampling.protocols import LoadedModel
from teacher.checkpoint import Weights, open_weights, to_published
from teacher.config import FORMATS, TeacherConfig
from teacher.fp8 import check_quantization
from teacher.mtp import shared_copies

if TYPE_CHECKING:
    from teacher.model import DeepseekForCausalLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALWAYS_FLOAT32 = "e_score_correction_bias"
"""Ending of the names whose tensors stay in float32: in bfloat16 the bias would steer other experts."""

ROPE_NUMBERS = (
    "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
    "mscale", "mscale_all_dim", "attention_factor",
)  # fmt: skip
"""Keys of `rope_parameters` that may be there, as numbers above 0."""


def is_teacher(config: dict[str, Any]) -> bool:
    """True for the `config.json` of a folder this room opens."""
    return config.get("model_type") in FORMATS


def load_teacher(
    folder: Path,
    dtype: str = "float32",
    device: str = "cpu",
    experts_backend: str = "grouped_mm",
    attention_backend: str = "sdpa",
    progress: Progress | None = None,
) -> LoadedModel:
    """Model and tokenizer of a folder. Raises UserError naming the folder and what is wrong with it."""
    return with_tokenizer(read_model(folder, dtype, device, experts_backend, attention_backend, progress), folder)


def with_tokenizer(model: "DeepseekForCausalLM", folder: Path) -> LoadedModel:
    """A model and the tokenizer of its folder. Raises UserError when there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no readable tokenizer ({shown(str(error).splitlines()[0])})") from error
    return LoadedModel(model, tokenizer, folder, checkpoint_fingerprint(folder))


def read_model(
    folder: Path,
    dtype: str = "float32",
    device: str = "cpu",
    experts_backend: str = "grouped_mm",
    attention_backend: str = "sdpa",
    progress: Progress | None = None,
) -> "DeepseekForCausalLM":
    """The model of a folder in evaluation mode, read straight into its tensors on `device`."""
    config = read_teacher_config(folder)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype}: unknown; there are {', '.join(DTYPES)}")
    weights = open_weights(folder)
    model = _outline(folder, config, weights, experts_backend, attention_backend)
    state = {
        name: torch.empty(tensor.shape, dtype=kept_dtype(name, DTYPES[dtype]), device=device)
        for name, tensor in model.state_dict().items()
    }
    weights.read_into(_on_disk(config, state), progress=progress)
    _check_copies(config, weights, state)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.config.dtype = DTYPES[dtype]
    model.set_attention_backend(attention_backend)
    model.set_experts_backend(experts_backend)
    model.eval()
    return model


def check_folder(folder: Path) -> tuple[TeacherConfig, Weights]:
    """Config and weights of a folder whose headers match each other; no tensor is read."""
    config = read_teacher_config(folder)
    weights = open_weights(folder)
    _outline(folder, config, weights, "reference", "sdpa")
    return config, weights


def read_teacher_config(folder: Path) -> TeacherConfig:
    """The checked configuration of a folder, without its quantization: weights are wide once they are read."""
    path = folder / CONFIG
    values = read_config(folder)
    if not is_teacher(values):
        code = "; code of the folder (auto_map) is never run" if "auto_map" in values else ""
        expected = " or ".join(map(repr, FORMATS))
        raise UserError(f"{path}: key model_type: {shown(values['model_type'])}, expected {expected}{code}")
    check_quantization(values.pop("quantization_config", None), str(path))
    # Published folders carry it. The architecture is built here; the code they name is never run.
    values.pop("auto_map", None)
    missing = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if key not in values]
    if missing:
        raise UserError(f"{path}: key {missing[0]}: missing")
    for key, kind in TeacherConfig.__annotations__.items():
        origin: Any = get_origin(kind)
        if key in values and origin is not ClassVar:
            _check_value(f"{path}: key {key}", values[key], kind)
    if not isinstance(values.get("rope_scaling"), dict | None):
        raise UserError(f"{path}: key rope_scaling: {shown(values['rope_scaling'])}, expected an object")
    try:
        config: TeacherConfig = FORMATS[values["model_type"]].from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {shown(str(error).splitlines()[0])}") from error
    for key in ROPE_NUMBERS:
        value = (config.rope_parameters or {}).get(key)
        if value is not None and (type(value) not in (int, float) or value <= 0):
            raise UserError(f"{path}: key rope_parameters.{key}: {shown(value)}, expected a number above 0")
    return config


def _check_value(where: str, value: Any, kind: Any) -> None:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {shown(value)}, {reason(error)}") from error
    if type(value) in (int, float) and value < 0:
        raise UserError(f"{where}: {shown(value)}, expected 0 or more")


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype a tensor has in a model of `dtype`."""
    return torch.float32 if name.endswith(ALWAYS_FLOAT32) else dtype


def check_further(folder: Path, names: Collection[str], config: TeacherConfig) -> None:
    """Raise UserError where a configuration announces modules for further tokens and the weights lack them."""
    for layer in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        if not any(name.startswith(f"model.layers.{layer}.") for name in names):
            raise UserError(
                f"{folder / CONFIG}: key num_nextn_predict_layers: {config.num_nextn_predict_layers}, but the folder "
                f"holds no tensor of model.layers.{layer}; set the key to {layer - config.num_hidden_layers} to read it"
            )


def _outline(
    folder: Path, config: TeacherConfig, weights: Weights, experts_backend: str, attention_backend: str
) -> "DeepseekForCausalLM":
    """The model on the meta device, its tensors the folder's by name and shape."""
    from teacher.model import DeepseekForCausalLM

    further, held = config.num_nextn_predict_layers, len(weights.stored)
    sparse = max(0, config.num_hidden_layers - config.first_k_dense_replace) // config.moe_layer_freq + further
    needed = config.num_hidden_layers + further + 3 * sparse * config.n_routed_experts
    if needed > 2 * held + 200:  # a config of a billion layers would take hours to build before a name is missed
        raise UserError(
            f"{folder / CONFIG}: num_hidden_layers {config.num_hidden_layers}, num_nextn_predict_layers {further} "
            f"and n_routed_experts {config.n_routed_experts} need over {needed:,} tensors, the folder holds {held:,}"
        )
    check_further(folder, weights.stored, config)
    with torch.device("meta"):
        model = DeepseekForCausalLM(config, experts_backend, attention_backend)
    shapes = {name: tuple(tensor.shape) for name, tensor in _on_disk(config, model.state_dict()).items()}
    copies = {name: shapes[source] for name, source in shared_copies(config).items() if name in weights.stored}
    weights.expect({**shapes, **copies}, spare=lambda name: name.endswith(".rotary_emb.inv_freq"))
    return model


def _on_disk(config: TeacherConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors a folder holds of a state: published names, views."""
    published = to_published(state)
    if config.tie_word_embeddings:
        del published["lm_head.weight"]
    return published


def _check_copies(config: TeacherConfig, weights: Weights, state: dict[str, Tensor]) -> None:
    """Embedding and head beside a module for further tokens are the main model's. UserError naming one that is not."""
    for name, source in shared_copies(config).items():
        if name not in weights.stored:
            continue
        rows = state[source]
        for piece in weights.pieces(name, rows.dtype, device=rows.device):
            if not torch.equal(piece, rows[: len(piece)]):
                raise UserError(
                    f"{weights.stored[name].file}: tensor {name}: differs from {source}, which it is a copy of"
                )
            rows = rows[len(piece) :]
