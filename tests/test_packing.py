"""Packed rows do not see each other, and where they would the run says so before its first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from distill.errors import UserError
from distill.train.lean import CALL
from distill.train.packed import attend_by_rows
from distill.train.preflight.batch import Collate, collator
from distill.train.preflight.packing import EXACT, check_packing
from distill.train.rows import Rows
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from tests.test_sft import data, model, train  # noqa: F401  # fixtures

TOLD = 2e-6
"""What the error of models that keep rows apart has to stay below in float32."""
VOCABULARY = 160
HYBRID = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "layer_types": ["linear_attention", "full_attention"],
}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "teacher":
        return DeepseekForCausalLM(preset("mini", vocab_size=VOCABULARY))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    keys = {"num_hidden_layers": 2, "head_dim": 16, "vocab_size": VOCABULARY}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes, **keys, **(HYBRID if "qwen3_" in kind else {}))
    )


def rows(*lengths: int) -> Rows:
    source = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, VOCABULARY, (length,), generator=source).tolist() for length in lengths]
    count = len(ids)
    return Rows(ids, ids, 0, [""] * count, [(0, 0)] * count, [f"row {row + 1}" for row in range(count)])


ROWS = rows(5, 33, 61, 18, 40, 9)


class Tokenizer:
    pad_token_id = 0


def packed() -> Collate:
    return collator(Tokenizer, packing=True)


@pytest.mark.parametrize("by_rows", [False, True], ids=["masked", "by rows"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "teacher"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_rows_are_kept_apart_within_rounding(kind: str, bf16: bool, by_rows: bool) -> None:
    kept_apart = made(kind)
    if by_rows:
        attend_by_rows(kept_apart)
    found = check_packing(kept_apart, ROWS, packed(), bf16=bf16)
    assert found is not None
    assert (found.rows, found.tokens) == (6, 166)
    assert found.error <= (0.01 if bf16 else TOLD)


def ones(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def one_position_off(batch: dict[str, Any]) -> dict[str, Any]:
    """The boundary between two rows falls a token late."""
    position_ids = batch["position_ids"].clone()
    starts = (position_ids[0] == 0).nonzero()[1:, 0]
    position_ids[0, starts] = position_ids[0, starts - 1] + 1
    return {**batch, "position_ids": position_ids}


@pytest.mark.parametrize("change", [ones, one_position_off], ids=["all-ones mask", "boundary a token late"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_batch_that_joins_rows_is_refused(change: Callable[..., Any], bf16: bool) -> None:
    collate = packed()
    with pytest.raises(UserError, match=r"row \d: packed with 5 other rows .* set packing = false"):
        check_packing(made("llama"), ROWS, lambda batch: change(collate(batch)), bf16=bf16)


def test_a_call_with_a_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALL, "use_cache", True)
    with pytest.raises(UserError, match="model_type qwen3 lets packed rows see each other; set packing = false"):
        check_packing(made("qwen3"), ROWS, packed(), bf16=False)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_single_layer_that_leaks_is_enough(bf16: bool) -> None:
    leaking = made("llama")
    attention = leaking.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **{**kwargs, "attention_mask": None})
    with pytest.raises(UserError, match="see each other"):
        check_packing(leaking, ROWS, packed(), bf16=bf16)


class Deaf(LlamaForCausalLM):
    """Does not hear of positions."""

    def get_decoder(self) -> Any:
        return lambda position_ids=None, **kwargs: self.model(**kwargs)


def test_a_model_that_ignores_positions_is_refused() -> None:
    deaf = Deaf(made("llama").config)
    with pytest.raises(UserError, match="model_type llama lets packed rows see each other"):
        check_packing(deaf, ROWS, packed(), bf16=False)


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5_text"])
def test_a_hybrid_of_linear_attention_is_refused_with_the_remedy(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without the kernels that take boundaries transformers refuses; where nobody tells it of them, rows leak."""
    hybrid, collate = made(kind), packed()
    with pytest.raises(UserError, match=f"model_type {kind} refuses packed rows .*; set packing = false"):
        check_packing(hybrid, ROWS, collate, bf16=False)

    def positions_alone(batch: Any) -> Any:
        return {key: value for key, value in collate(batch).items() if key in ("input_ids", "labels", "position_ids")}

    with pytest.raises(UserError, match=f"model_type {kind} lets packed rows see each other; set packing = false"):
        check_packing(hybrid, ROWS, positions_alone, bf16=False)


def test_few_tokens_of_a_long_set_are_enough_and_one_row_has_no_neighbor() -> None:
    found = check_packing(made("llama"), rows(*[900] * 40), packed(), bf16=False)
    assert found is not None
    assert (found.rows, found.tokens) == (2, 1800)
    assert check_packing(made("llama"), rows(9), packed(), bf16=False) is None


def test_the_model_is_left_as_it_was() -> None:
    trained = made("llama").train()
    check_packing(trained, ROWS, packed(), bf16=False)
    assert trained.training
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_a_packed_run_records_its_own_error(data: Path, model: Path, tmp_path: Path) -> None:  # noqa: F811
    report = train(data, model, tmp_path / "out", packing=True, steps=2)
    assert report.counts["packing_error"] <= TOLD < EXACT
    assert report.counts["packing_rows"] == 8
    assert report.marks["preflight"]["packing"].startswith("isolation error ")
    assert report.lines[-1].startswith("packing isolation error ")


def test_a_run_whose_rows_would_leak_is_refused_before_its_first_step(
    data: Path,  # noqa: F811
    model: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_boundaries(tokenizer: Any, *, packing: bool) -> Collate:
        collate = collator(tokenizer, packing=packing)
        return lambda batch: {key: value for key, value in collate(batch).items() if not key.startswith("cu_seq_lens")}

    monkeypatch.setattr("distill.train.checked.collator", without_boundaries)
    with pytest.raises(UserError, match=r"examples.jsonl:\d+: example e\d+: packed with .* set packing = false"):
        train(data, model, tmp_path / "out", packing=True, steps=2)
    assert not list((tmp_path / "out").glob("*.safetensors"))
