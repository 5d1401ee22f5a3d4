"""What two gloo processes compute for tests/test_parallel.py: started by torchrun, results into a folder.

One start for all cases, because starting costs seconds. Every case returns plain numbers and tensors; the
test asserts, here nothing is judged.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UserError
from teacher import decoder
from teacher.checkpoint import to_published
from teacher.config import TeacherConfig, preset
from teacher.decoder import LatentDecoder
from teacher.model import DeepseekForCausalLM
from teacher.parallel.experts import exchange
from teacher.parallel.joins import groups_of, leave, start
from teacher.parallel.layout import Layout
from teacher.parallel.lead import dismiss, follow, open_teacher
from teacher.parallel.loading import load_share
from teacher.parallel.split import local_state, split_model
from teacher.parallel.training import gradient_norm, split_experts, sum_gradients, whole_state

LAYOUTS = {"tensor": (2, 1), "expert": (1, 2), "both": (2, 2)}
V2 = {
    "name": "v2-lite",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
}
SHAPES: dict[str, dict[str, Any]] = {
    "miniature": {},
    "query latent, biases, odd vocabulary": {"q_lora_rank": 24, "attention_bias": True, "vocab_size": 63},
    "tied embedding, no dense layer": {"tie_word_embeddings": True, "first_k_dense_replace": 0},
    "module for a further token": {"num_nextn_predict_layers": 1},
    "DeepSeek-V2": V2,
}
PROMPTS, LENGTH, BLOCK_SIZE = 3, 14, 8


def shape(name: str) -> TeacherConfig:
    return preset(**{"name": "mini", "num_hidden_layers": 2, **SHAPES[name]})


def make(config: TeacherConfig) -> DeepseekForCausalLM:
    """A model whose every weight matters, the same on every rank."""
    torch.manual_seed(0)
    model = DeepseekForCausalLM(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(std=0.3 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5)
    return model


def prompts(config: TeacherConfig) -> Tensor:
    return torch.randint(config.vocab_size, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(1))


def tables(decoder: Any) -> Tensor:
    """Make a cache with room for every prompt and ten tokens; which blocks each row has."""
    blocks = -(-(LENGTH + 10) // BLOCK_SIZE)
    decoder.allocate(PROMPTS * blocks, BLOCK_SIZE, LENGTH + 10)
    return torch.arange(PROMPTS * blocks).view(PROMPTS, blocks)


@torch.inference_mode()
def say(model: DeepseekForCausalLM, ids_BT: Tensor) -> dict[str, Tensor]:
    """Logits of a forward pass, and ten greedy tokens through the latent cache."""
    model.eval()
    speaker = LatentDecoder(model)
    tables_BM = tables(speaker)
    whole_B, none_B = torch.full((PROMPTS,), LENGTH), torch.zeros(PROMPTS, dtype=torch.int64)
    token_B = speaker.prefill(ids_BT, none_B, whole_B, tables_BM).argmax(-1)
    said = [token_B]
    for place in range(LENGTH, LENGTH + 9):
        token_B = speaker.step(token_B, torch.full((PROMPTS,), place), tables_BM).argmax(-1)
        said.append(token_B)
    return {"logits": model(input_ids=ids_BT).logits, "tokens": torch.stack(said, 1)}


def speaking(rank: int) -> dict[str, Any]:
    """Every shape in every layout."""
    found = {}
    for name in SHAPES:
        config = shape(name)
        whole = make(config)
        for layout, (tensor, expert) in LAYOUTS.items():
            place = Layout(tensor, expert, rank)
            own = split_model(config, groups_of(place))
            own.load_state_dict(local_state(to_published(whole.state_dict()), config, place), assign=True, strict=False)
            own.tie_weights()
            size = sum(weight.numel() for weight in own.parameters())
            found[f"{name}/{layout}"] = {**say(own, prompts(config)), "parameters": size}
    return found


def rows(config: TeacherConfig, case: str) -> tuple[Tensor, list[Tensor]]:
    """A batch, and each rank's rows of it."""
    ids_BT = prompts(config)
    cuts = {"even": [2, 1], "one rank has one short row": [2, 1], "all of it on one rank": [3, 0]}[case]
    if case == "one rank has one short row":
        ids_BT[2, 3:] = -1
    return ids_BT, list(ids_BT.split(cuts))


def loss_of(model: DeepseekForCausalLM, ids_BT: Tensor, total: int) -> Tensor:
    """Share of the batch's mean loss; rows end where -1 begins."""
    labels = torch.where(ids_BT < 0, -100, ids_BT)
    output = model(input_ids=ids_BT.clamp(min=0), attention_mask=ids_BT >= 0, labels=labels, num_items_in_batch=total)
    loss: Tensor = output.loss
    return loss


def predicted(ids_BT: Tensor) -> int:
    return int((ids_BT[:, 1:] >= 0).sum())


TRAINING = {
    "even/grouped_mm/all_to_all": {},
    "even/reference/all_to_all": {},
    "even/grouped_mm/all_gather": {},
    "one rank has one short row/grouped_mm/all_to_all": {},
    "even/grouped_mm/all_to_all, router to one rank": {"favored": True},
    "even/grouped_mm/all_to_all, checkpointing": {"checkpointing": True},
}


def favor_first(model: DeepseekForCausalLM) -> None:
    """Every token chooses experts of rank 0: the other rank receives nothing."""
    for layer in model.model.layers[1:]:
        bias = layer.mlp.gate.e_score_correction_bias
        bias.zero_()
        bias[: len(bias) // 2] = 10.0


def trained(case: str, rank: int | None) -> dict[str, Tensor]:
    """Gradients by published name after one step, and weights after a plain gradient step; one process if no rank."""
    config = shape("miniature")
    model = make(config).train()
    if TRAINING[case].get("favored"):
        config.topk_group = 1
        favor_first(model)
    split, backend, transport = case.split(",")[0].split("/")
    model.set_experts_backend(backend)
    if TRAINING[case].get("checkpointing"):
        model.model.gradient_checkpointing = True
    batch, parts = rows(config, split)
    if rank is not None:
        split_experts(model, rank, 2, transport)
    loss = loss_of(model, batch if rank is None else parts[rank], predicted(batch))
    loss.backward()
    if rank is not None:
        sum_gradients(model)
        norm = gradient_norm(model)
        dist.all_reduce(loss.detach())
    else:
        norm = torch.stack([weight.grad.square().sum() for weight in model.parameters()]).sum().sqrt()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad
    state = whole_state(model) if rank is not None else to_published(model.state_dict())
    names = dict(model.named_parameters())
    gradients = {name: weight.grad for name, weight in names.items() if ".mlp.experts." not in name}
    return {"loss": loss.detach(), "norm": norm, **{f"grad {k}": v for k, v in gradients.items()}, **state}


def exchanged(rank: int) -> dict[str, Any]:
    """Uneven and empty parts there and back."""
    sent = [[1, 4], [0, 2]][rank]
    received = [[1, 0], [4, 2]][rank]
    found = {}
    for transport in ("all_to_all", "all_gather"):
        x_MD = (torch.arange(sum(sent) * 2.0).view(-1, 2) + 100 * rank).requires_grad_()
        moved_RD = exchange(x_MD, sent, received, transport)
        (moved_RD * (10.0**rank)).sum().backward()
        found[transport] = {"moved": moved_RD.detach(), "gradient": x_MD.grad}
    return found


def made(model: DeepseekForCausalLM) -> int:
    """Bytes a decoder keeps beside the model, those of its feed-forwards included."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    total = 0
    for layer in LatentDecoder(model).layers:
        cells = getattr(layer.feed, "__closure__", None) or ()
        for value in (*vars(layer).values(), *(cell.cell_contents for cell in cells)):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in own:
                total += value.nbytes
    return total


def folders(rank: int, folder: Path) -> dict[str, Any]:
    """A folder loaded in parts, FP8 kept and made wide; and a folder one rank cannot read."""
    found: dict[str, Any] = {}
    for layout, (tensor, expert) in LAYOUTS.items():
        groups = groups_of(Layout(tensor, expert, rank))
        for name, dtype in (("plain", "float32"), ("blocks", "float32"), ("blocks", "bfloat16"), ("blocks", "fp8")):
            decoder.FOLDED = 0 if dtype == "fp8" else 2**20  # at published sizes nothing is folded
            model = load_share(folder / name, groups, dtype=dtype)
            ids_BT = prompts(model.config)
            size = sum(weight.nbytes for weight in (*model.parameters(), *model.buffers()))
            found[f"{name}/{layout}/{dtype}"] = {**say(model, ids_BT), "bytes": size, "made": made(model)}
    return found


def led(rank: int, folder: Path) -> dict[str, Any]:
    """Rank 0 leads: decoder, model, a refusal, and a decoder again."""
    if rank:
        follow(rank)
        return {}
    found: dict[str, Any] = {}
    try:
        loaded, speaker = open_teacher(folder / "plain", 2, 2, dtype="float32", device="cpu")
        try:
            speaker.allocate(1, 8, 10**6)
        except UserError as error:
            found["refusal"] = str(error)
        try:
            open_teacher(folder / "missing", 2, 2, dtype="float32", device="cpu")
        except UserError as error:
            found["missing"] = str(error)
        ids_BT = prompts(loaded.model.config)
        whole_B, none_B = torch.full((PROMPTS,), LENGTH), torch.zeros(PROMPTS, dtype=torch.int64)
        found["prefill"] = speaker.prefill(ids_BT, none_B, whole_B, tables(speaker))
        with torch.inference_mode():
            found["forward"] = loaded.model(input_ids=ids_BT, use_cache=False).logits
    finally:
        dismiss()
    return found


def main(folder: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    start(rank, world)
    cases: dict[str, Callable[[], Any]] = {
        "speaking": lambda: speaking(rank),
        "training": lambda: {case: trained(case, rank) for case in TRAINING},
        "exchanged": lambda: exchanged(rank),
        "folders": lambda: folders(rank, folder),
        "led": lambda: led(rank, folder),
    }
    torch.save({name: case() for name, case in cases.items()}, folder / f"rank-{rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
