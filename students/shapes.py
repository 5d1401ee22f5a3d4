"""What a dense student costs the one GPU it speaks on: built on the meta device and counted.

The decoder keeps q, k and v, and gate and up, fused beside the model's own (`students.decoder`), so those
count twice in memory and once in what a step reads. Activations are an upper bound.
"""

from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.plan import EngineShape
from distill.train.adapters import layer_sizes
from distill.train.estimate import TrainShape
from distill.train.optimizers import split_parameters
from students.decoder import ARCHITECTURES
from students.loader import DTYPES
from students.specs import find_spec, model_config

FUSED = (".q_proj.", ".k_proj.", ".v_proj.", ".gate_proj.", ".up_proj.")
SAMPLING = 4
"""Arrays as large as the logits while tokens are chosen: logits, probabilities, sorted, sums; float32."""
PUBLISHED = {
    "Qwen2.5-0.5B": ("qwen2.5-0.5b", 151_936),
    "Qwen2.5-1.5B": ("qwen2.5-1.5b", 151_936),
    "Qwen3-0.6B": ("qwen3-0.6b", 151_936),
    "Llama-3.2-1B": ("llama3.2-1b", 128_256),
}
"""Folder names of published models whose shape is known without their folder: spec and vocabulary."""


def student_config(folder: Path) -> Any:
    """The transformers config of a folder, or of the published model it is named after. UserError when neither."""
    from transformers import AutoConfig

    if (folder / "config.json").is_file():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: config cannot be read ({str(error).splitlines()[0]})") from error
        if config.model_type not in ARCHITECTURES:
            raise UserError(
                f"{folder}: model_type {config.model_type}: no decoder; there are {', '.join(ARCHITECTURES)}"
            )
        return config
    spec, vocabulary = PUBLISHED[folder.name]
    return model_config(find_spec(spec, {}), vocabulary, end_id=0, pad_id=None)


def engine_shape(config: Any, dtype: str, name: str) -> EngineShape:
    """Shape of a student on one GPU."""
    from transformers import AutoModelForCausalLM

    bytes_ = DTYPES[dtype].itemsize
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    numbers = {tensor: weight.numel() for tensor, weight in model.named_parameters()}
    fused = sum(count for tensor, count in numbers.items() if any(part in tensor for part in FUSED))
    looked_up = 0 if config.tie_word_embeddings else numbers["model.embed_tokens.weight"]
    width = config.num_attention_heads * config.head_dim
    keys = 2 * config.num_key_value_heads * config.head_dim
    return EngineShape(
        what=f"{name}, {dtype}",
        gpus=1,
        weight_bytes=(sum(numbers.values()) + fused) * bytes_,
        always_bytes=(sum(numbers.values()) - looked_up) * bytes_,
        expert_bytes=0,
        experts=0,
        chosen=0,
        expert_layers=0,
        cache_bytes_per_token=keys * config.num_hidden_layers * bytes_,
        prefill_bytes_per_token=(4 * config.hidden_size + max(3 * width + 2 * keys, 4 * config.intermediate_size))
        * bytes_,
        row_bytes=config.vocab_size * SAMPLING * 4,
        scratch_bytes=0,
        positions=config.max_position_embeddings,
    )


def train_shape(config: Any, name: str) -> TrainShape:
    """A student as training sees it. The kept numbers are those of Qwen3, whose heads have norms of their own."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices, rest = (sum(weight.numel() for weight in part) for part in split_parameters(model))
    embedding = model.get_input_embeddings().weight.numel()
    queries = config.num_attention_heads * config.head_dim
    keys = 2 * config.num_key_value_heads * config.head_dim
    kept = 6 * config.hidden_size + 4 * config.intermediate_size + 4 * (queries + config.num_attention_heads) + 2 * keys
    return TrainShape(
        what=name,
        matrices=matrices,
        expert_matrices=0,
        rest=rest,
        multiplied=matrices + rest - (0 if config.tie_word_embeddings else embedding),
        further=0,
        vocabulary=config.vocab_size,
        layer_values=(kept,) * config.num_hidden_layers,
        width=config.hidden_size,
        layers=layer_sizes(model),
    )
