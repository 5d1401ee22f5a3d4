"""Tokens a second of the engine and of its peers on the same dense student, one thread.

`python -m tests.speed.engine` prints CSV; names after it run only the cases that contain one.
Both sides say the same greedy tokens first, else nothing is timed. The miniature then samples
at temperature 1 without filters: `rows` samples at once, of as many prompts or of `rows` / 8
prompts with 8 samples each. SmolLM2-135M's shape, of random weights and a small vocabulary,
decodes greedily. Peers are transformers' generate, its continuous batching (generate_batch) and
llama.cpp, which has to be installed (the extra `smollm`) and is left out otherwise. Process
time, best of `REPEATS`, the two sides taking turns. Ends never come, so that both say as many
tokens: the engine's refilling, which generate does not have, counts for nothing here.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine
from students.decoder import KVDecoder
from students.specs import SPECS, model_config
from tests.speed import llama_cpp_peer

REPEATS = 3
Speak = Callable[[bool], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Case:
    """`rows` sequences at a time of prompts of random lengths."""

    spec: str
    rows: int
    samples: int = 1
    peer: str = "generate"
    prompt: tuple[int, int] = (15, 60)
    new: int = 64

    @property
    def name(self) -> str:
        """For choosing."""
        return f"{self.spec} {self.rows} x{self.samples} {self.peer}"


SMOLLM: dict[str, Any] = {"spec": "smollm2-135m", "prompt": (60, 61), "new": 16}
CASES = (
    *(Case("mini-95k", rows, samples) for samples in (1, 8) for rows in (64, 256, 512)),
    Case("mini-95k", 64, peer="generate_batch"),
    *(Case(rows=rows, peer=peer, **SMOLLM) for rows in (1, 32) for peer in ("generate", "llama.cpp")),
)


def main() -> None:
    """One row a case."""
    torch.set_num_threads(1)
    print("model,rows,samples_per_prompt,peer,engine_tokens_per_second,peer_tokens_per_second,ratio")
    for case in CASES:
        if len(sys.argv) > 1 and not any(word in case.name for word in sys.argv[1:]):
            continue
        if case.peer == "llama.cpp" and not llama_cpp_peer.available():
            print(f"left out: {case.name} (llama-cpp-python is not installed)", file=sys.stderr)
            continue
        report(case)


def report(case: Case) -> None:
    """Check that both sides say the same, time them in turns, print a row."""
    torch.manual_seed(0)
    chat, rng = Chat(mini_tokenizer()), random.Random(0)
    vocab = len(chat.tokenizer)
    model = AutoModelForCausalLM.from_config(model_config(SPECS[case.spec], vocab, end_id=chat.end_id, pad_id=0)).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    count = case.rows // case.samples
    prompts = [[rng.randrange(7, vocab) for _ in range(rng.randrange(*case.prompt))] for _ in range(count)]
    engine = Engine(KVDecoder(model), chat, slots=case.rows, capacity=case.prompt[1] + case.new)
    engine.rows.is_end.zero_()

    def mine(warm: bool) -> list[list[int]]:
        engine.pool.forget()  # a second run must not find the prompts of the first
        params = Params(max_tokens=case.new, temperature=float(warm))
        rolled = engine.rollout(prompts, params, case.samples if warm else 1, list(range(count)))
        return [sample.ids for samples in rolled for sample in samples]

    with tempfile.TemporaryDirectory() as folder:
        peer = peer_of(case, model, prompts, Path(folder))
        assert mine(False) == peer(False), f"{case.name}: other tokens"
        warm, best = case.spec.startswith("mini") and case.peer == "generate", [0.0, 0.0]
        for _ in range(REPEATS):
            for side, speak in enumerate((mine, peer)):
                best[side] = max(best[side], case.rows * case.new / seconds(speak, warm))
    print(
        f"{case.spec},{case.rows},{case.samples},{case.peer},{best[0]:.0f},{best[1]:.0f},{best[0] / best[1]:.1f}",
        flush=True,
    )


def peer_of(case: Case, model: Any, prompts: list[list[int]], folder: Path) -> Speak:
    """The other side."""
    if case.peer == "generate":
        return lambda warm: generate(model, prompts, case, warm)
    if case.peer == "generate_batch":
        return lambda warm: generate_batch(model, prompts, case.new)
    llama_cpp_peer.write_gguf(model, folder / "model.gguf")
    speak = llama_cpp_peer.speaker(folder / "model.gguf", case.rows, case.prompt[1] + case.new, model.config.vocab_size)
    return lambda warm: speak(prompts, case.new)


def generate(model: Any, prompts: list[list[int]], case: Case, warm: bool) -> list[list[int]]:
    """Through generate, left-padded, as one batch."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"do_sample": True, "top_k": 0} if warm else {"do_sample": False}
    samples = case.samples if warm else 1
    said: torch.Tensor = model.generate(
        ids, attention_mask=mask, max_new_tokens=case.new, num_return_sequences=samples, **settings
    )
    rows: list[list[int]] = said[:, width:].tolist()
    return rows


def generate_batch(model: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    """Through transformers' continuous batching, greedy."""
    config = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=-1)
    said = model.generate_batch(prompts, generation_config=config, warmup=False)
    return [list(said[f"req_{place}"].generated_tokens) for place in range(len(prompts))]


def seconds(speak: Speak, warm: bool) -> float:
    """Process time of one call."""
    begun = time.process_time()
    speak(warm)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
