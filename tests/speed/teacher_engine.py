"""Tokens a second of the teacher's engine and of transformers' generate on the same weights, one thread.

`python -m tests.speed.teacher_engine` prints CSV; names after it run only the cases that contain
one. Two random models: A (256 wide, 4 layers, 16 experts of which 4, 7.7M parameters) and C (512
wide, 8 layers, 64 experts of which 8, 191M). Both sides say the same greedy tokens first, else
nothing is timed; in bfloat16 two right programs part ways and int8 weights are lossy, so the share of equal
tokens is a column. Process time, prefill included, best of `REPEATS`, the sides taking turns. transformers runs
sdpa attention and grouped_mm experts; `generate, one prefill` is generate over a cache that was filled once and
repeated for all samples. Ends never come.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, DynamicCache, GenerationConfig

from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine
from teacher.config import TeacherConfig
from teacher.decoder import LatentDecoder
from teacher.model import DeepseekForCausalLM

REPEATS, VOCABULARY = 3, 2048
WEIGHTS: tuple[Literal["exact", "int8"], ...] = ("exact", "int8")
SIZES = {"A": (256, 4, 16, 4, 4), "C": (512, 8, 64, 8, 8)}
"""Width, layers, experts, experts a token, heads."""


@dataclass(frozen=True, slots=True)
class Case:
    """`rows` sequences at a time, `samples` of each prompt."""

    model: str
    rows: int
    prompt: int
    new: int
    samples: int = 1
    dtype: torch.dtype = torch.float32
    once: bool = False
    """transformers prefills the prompt once, too."""
    weights: Literal["exact", "int8"] = "exact"
    """Of our side."""

    @property
    def name(self) -> str:
        """As in the CSV."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.model} b{self.rows} P{self.prompt} N{self.new} x{self.samples} {kind} {self.weights}"


CASES = (
    Case("A", 1, 128, 64),
    Case("A", 8, 128, 64),
    Case("A", 32, 128, 64),
    Case("A", 32, 128, 128),
    Case("A", 16, 128, 384),
    Case("A", 8, 512, 32),
    Case("A", 32, 128, 48, dtype=torch.bfloat16),
    Case("A", 32, 256, 32, samples=32),
    Case("A", 32, 256, 32, samples=32, once=True),
    Case("C", 32, 256, 12, samples=32),
    Case("C", 1, 128, 16),
    Case("C", 8, 128, 16),
    Case("A", 1, 128, 64, weights="int8"),
    Case("C", 1, 128, 16, weights="int8"),
    Case("C", 8, 128, 16, weights="int8"),
    *(Case("C", rows, 128, 16, dtype=torch.bfloat16, weights=weights) for rows in (1, 8) for weights in WEIGHTS),
)


def main() -> None:
    """One row a case."""
    torch.set_num_threads(1)
    print(
        "case,rows,prompt,new,samples_per_prompt,dtype,weights,peer,same_tokens,engine_tokens_per_second,"
        "peer_tokens_per_second,ratio"
    )
    for case in CASES:
        if len(sys.argv) == 1 or any(word in case.name for word in sys.argv[1:]):
            report(case)


def report(case: Case) -> None:
    """Check that both sides say the same, time them in turns, print a row."""
    ours, theirs = models(case)
    ids = torch.randint(3, VOCABULARY, (case.rows // case.samples, case.prompt))
    engine = Engine(
        LatentDecoder(ours, case.weights), Chat(mini_tokenizer()), slots=case.rows, capacity=case.prompt + case.new
    )
    engine.rows.is_end.zero_()

    def mine(warm: bool) -> list[list[int]]:
        engine.pool.forget()  # a second run must not find the prompts of the first
        params = Params(max_tokens=case.new, temperature=float(warm))
        rolled = engine.rollout(ids.tolist(), params, case.samples if warm else 1, [0] * len(ids))
        return [sample.ids for samples in rolled for sample in samples]

    def peer(warm: bool) -> list[list[int]]:
        return generate(theirs, ids, case, warm)

    warm = case.samples > 1
    pairs = [pair for rows in zip(mine(False), peer(False), strict=True) for pair in zip(*rows, strict=True)]
    same = sum(a == b for a, b in pairs) / len(pairs)
    assert same == 1 or case.dtype != torch.float32 or case.weights != "exact", f"{case.name}: other tokens"
    best = [0.0, 0.0]
    for _ in range(REPEATS):
        for side, speak in enumerate((mine, peer)):
            best[side] = max(best[side], case.rows * case.new / seconds(speak, warm))
    peer_name = "generate one prefill" if case.once else "generate"
    print(
        f"{case.model.lower()},{case.rows},{case.prompt},{case.new},{case.samples},"
        f"{str(case.dtype).removeprefix('torch.')},{case.weights},{peer_name},{same:.2f},{best[0]:.0f},{best[1]:.0f},"
        f"{best[0] / best[1]:.1f}",
        flush=True,
    )


def generate(model: Any, ids: torch.Tensor, case: Case, warm: bool) -> list[list[int]]:
    """transformers' side."""
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0} if warm else {"do_sample": False}
    samples = case.samples if warm else 1
    if case.once and warm:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(samples)
        ids = ids.repeat_interleave(samples, 0)
        settings["past_key_values"] = cache
    else:
        settings["num_return_sequences"] = samples
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=case.new, **settings)
    rows: list[list[int]] = said[:, ids.shape[1] :].tolist()
    return rows


def models(case: Case) -> tuple[DeepseekForCausalLM, Any]:
    """Both sides over the same random weights."""
    torch.manual_seed(0)
    width, layers, experts, chosen, heads = SIZES[case.model]
    config = TeacherConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        moe_intermediate_size=width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        n_shared_experts=1,
        n_routed_experts=experts,
        num_experts_per_tok=chosen,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=width // 4,
        q_lora_rank=None,
        qk_rope_head_dim=32,
        qk_nope_head_dim=width // heads,
        v_head_dim=width // heads,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
    )
    ours = DeepseekForCausalLM(config).eval()
    theirs = DeepseekV3ForCausalLM(DeepseekV3Config.from_dict(config.to_dict())).eval()
    theirs.set_experts_implementation("grouped_mm")
    theirs.load_state_dict(ours.state_dict())
    theirs.generation_config = GenerationConfig(pad_token_id=0)
    return ours.to(case.dtype), theirs.to(case.dtype)


def seconds(speak: Callable[[bool], object], warm: bool) -> float:
    """Process time of one call."""
    begun = time.process_time()
    speak(warm)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
