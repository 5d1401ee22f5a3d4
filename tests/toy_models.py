"""Toy students and teachers with the miniature's tokenizer, and examples for them."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.jsonl import write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.records import Example, Message, Problem


def toy_model(folder: Path, *, seed: int, sharp: float = 1.0, stops: float = 1.0, **fields: Any) -> Path:
    """A random Llama. `sharp` scales its logits, `stops` the end token's: a random model hardly ever stops."""
    tokenizer = mini_tokenizer()
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **fields}))
    with torch.no_grad():
        model.lm_head.weight *= sharp
        model.lm_head.weight[tokenizer.eos_token_id] *= stops
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_example(number: int, answer: str | None = None) -> Example:
    """A question about coins."""
    said = answer or f"<think> {number % 20} + 1 = {number % 20 + 1} ; </think> {number % 20 + 1}"
    return Example(
        id=f"e{number}",
        problem_id=f"p{number}",
        trace_id=None,
        messages=(
            Message(role="user", content=f"Mia has {number % 20} coins ."),
            Message(role="assistant", content=said),
        ),
        order=number,
    )


def toy_examples(folder: Path, count: int = 40) -> Path:
    """A file of examples."""
    path = folder / "examples.jsonl"
    write_jsonl(path, [toy_example(number) for number in range(count)])
    return path


def toy_problems(folder: Path, count: int = 20) -> Path:
    """A file of problems of two levels."""
    path = folder / "problems.jsonl"
    rows = [
        Problem(
            id=f"p{number}",
            kind="answer",
            prompt=f"Mia has {number % 20} coins .",
            answer=str(number % 20 + 1),
            source="stories",
            split="train",
            level=number % 2 + 1,
        )
        for number in range(count)
    ]
    write_jsonl(path, rows)
    return path
