"""How far packed rows are from the same rows alone: kept apart, with one layer leaking, with all of them.

`python -m tests.packing_audit` prints CSV for small random models; with a checkpoint's folder and its examples
(`python -m tests.packing_audit FOLDER EXAMPLES`) for that one. What `distill.train.preflight.packing` allows lies
between the first column and the others. One CPU thread, attention masked as on a GPU, not row by row.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cli.loading import Folders
from distill.prompts import Chat
from distill.train.preflight.batch import Collate, collator
from distill.train.preflight.packing import measure_packing
from distill.train.rows import Rows, read_rows
from teacher.config import preset
from teacher.model import DeepseekForCausalLM

VOCABULARY = 512
LEAKING = 5
"""Layers, evenly spread, that leak in turn."""


class Tokenizer:
    """What the collator asks for."""

    pad_token_id = 0


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    print("model,dtype,rows,tokens,kept apart,least of one leaking layer,all leaking")
    if arguments:
        loaded = Folders().load(Path(arguments[0]))
        rows = read_rows(Path(arguments[1]), Chat(loaded.tokenizer), VOCABULARY * 1000, 4096, "drop")
        tell(Path(arguments[0]).name, loaded.model, rows)
        return
    source = torch.Generator().manual_seed(1)
    lengths = (12, 31, 60, 97)
    ids = [torch.randint(5, 160, (length,), generator=source).tolist() for length in lengths]
    rows = Rows(ids, ids, 0, [""] * 4, [(0, 0)] * 4, [""] * 4)
    for kind in ("llama", "qwen2", "qwen3", "teacher"):
        tell(kind, made(kind), rows)


def made(kind: str) -> Any:
    """A random model of width 128 and 4 layers; the teacher is the miniature's."""
    torch.manual_seed(0)
    if kind == "teacher":
        return DeepseekForCausalLM(preset("mini", vocab_size=VOCABULARY))
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads))


def tell(name: str, model: Any, rows: Rows) -> None:
    """A line a dtype. Layers of the teacher, which looks at positions itself, cannot be made to leak."""
    collate = collator(Tokenizer, packing=True)
    for bf16 in (False, True):
        apart = measure_packing(model, rows, collate, bf16=bf16)
        one, whole = "", ""
        if hasattr(model.model.layers[0].self_attn, "k_proj"):
            layers = model.model.layers
            places = sorted({k * (len(layers) - 1) // (LEAKING - 1) for k in range(LEAKING)})
            errors = []
            for place in places:
                with leaking(layers[place].self_attn):
                    errors.append(measure_packing(model, rows, collate, bf16=bf16).error)
            one = f"{min(errors):.2g}"
            whole = f"{measure_packing(model, rows, joined(collate), bf16=bf16).error:.2g}"
        print(f"{name},{apart.dtype},{apart.rows},{apart.tokens},{apart.error:.2g},{one},{whole}", flush=True)


@contextmanager
def leaking(attention: Any) -> Iterator[None]:
    """One layer whose attention sees everything before it."""
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **{**kwargs, "attention_mask": None})
    try:
        yield
    finally:
        attention.forward = forward


def joined(collate: Collate) -> Collate:
    """Batches with an all-ones mask."""

    def join(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        batch = collate(rows)
        return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}

    return join


if __name__ == "__main__":
    main(sys.argv[1:])
