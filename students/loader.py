"""Open a student's folder: safetensors only, no code from the folder, nothing missing.

Any causal model transformers has can be opened, and so trained; the engine samples those of `students.decoder`.
Plain and bitsandbytes-quantized folders alike. Pickled weights are refused whatever they
hold, because opening one runs code.
"""

from pathlib import Path
from typing import Any

import torch

from distill.checkpoints import checkpoint_fingerprint, read_config
from distill.errors import UserError, shown
from distill.quantized import keep_unpacked
from distill.sampling.protocols import LoadedModel
from students.decoder import ARCHITECTURES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


def load_student(folder: Path, *, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """Model (in eval mode) and tokenizer of a folder. Raises UserError naming what is wrong with it."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = read_config(folder)
    _check(folder, config, dtype)
    where = {"device_map": device} if "quantization_config" in config else {}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **where,
        )
        # Not AutoTokenizer: it picks a class by model_type and then splits text unlike tokenizer.json says.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded ({_first_line(error)})") from error
    for what in ("missing", "unexpected"):
        names = sorted(loading[f"{what}_keys"])
        if names:
            raise UserError(f"{folder}: {what} tensors: {', '.join(names[:3])} ({len(names)} in all)")
    if not where:
        model.to(device)
    else:
        keep_unpacked(model)
    return LoadedModel(model.eval(), tokenizer, folder, checkpoint_fingerprint(folder))


def _check(folder: Path, config: dict[str, Any], dtype: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    if "auto_map" in config:
        raise UserError(f"{folder}: config.json names code of its own (auto_map), which is never run")
    if config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{folder}: model_type {shown(config['model_type'])} is no student: transformers has no causal language "
            f"model of that type; {', '.join(ARCHITECTURES)} can be trained and sampled here, others it has be trained"
        )
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: tokenizer.json: missing")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: {pickles[0]} is a pickle, and opening one runs code; convert it to model.safetensors first"
        )
    raise UserError(f"{folder}: no weights (expected model.safetensors)")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
