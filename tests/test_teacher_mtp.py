"""The module for further tokens: transformers' own MtpModel says the same, and folders hold it as published."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from distill.errors import UserError
from teacher import mtp
from teacher.config import preset
from teacher.decoder import LatentDecoder
from teacher.loader import read_model
from teacher.model import DeepseekForCausalLM
from teacher.mtp import FurtherToken, further_states
from tests.teacher_pairs import CONFIGS, SMALL, difference, ids_for, pair, shake

WEIGHTS = "model.safetensors"
SHAPES = {
    "one": {**SMALL, "num_hidden_layers": 2, "num_nextn_predict_layers": 1},
    "one, query latent": {**CONFIGS["query latent"], "num_nextn_predict_layers": 1},
    "one, yarn": {**CONFIGS["yarn"], "num_nextn_predict_layers": 1},
    "one, behind dense layers only": {**CONFIGS["dense only"], "num_nextn_predict_layers": 1},
    "one, tied head": {**CONFIGS["tied head"], "num_nextn_predict_layers": 1},
    "two": {**SMALL, "num_hidden_layers": 2, "num_nextn_predict_layers": 2},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def folder(request, tmp_path):
    model = DeepseekForCausalLM(preset("mini", **request.param))
    shake(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def training(folder) -> DeepseekForCausalLM:
    model = read_model(folder).train()
    model.auxiliary.begin(balance=False, further=True)
    return model


def theirs(folder, monkeypatch) -> tuple[DeepseekV3ForCausalLM, MtpModel]:
    """transformers' model and module, which knows its own layer by number 61 alone."""
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.[23]\..*"])
    main = DeepseekV3ForCausalLM.from_pretrained(folder)
    return main, MtpModel.from_pretrained(main)


def their_states(main, module, ids) -> list[torch.Tensor]:
    """Depth by depth; depth k reads the state before it and the embedding k tokens on."""
    cache = MtpCache(config=main.config.get_mtp_config())
    hidden = main.model(ids, use_cache=False).last_hidden_state
    positions, states = torch.arange(ids.shape[1])[None].expand_as(ids), []
    for depth in range(len(module.layers)):
        ids, positions, hidden = ids[:, 1:], positions[:, 1:], hidden[:, :-1]
        hidden = module.forward_layer(depth, hidden, positions, cache, input_ids=ids)
        states.append(hidden)
    return states


def test_states_loss_and_gradients_equal_transformers(folder, monkeypatch) -> None:
    ours = training(folder)
    main, module = theirs(folder, monkeypatch)
    ids = ids_for(ours)
    ours(ids)
    body, last = ours.model, ours.auxiliary.last
    modules = [layer for layer in body.layers if isinstance(layer, FurtherToken)]
    watching = ours.auxiliary.meter.watching
    mine = further_states(
        modules, last.hidden_ND, last.embedded_ND, last.rows, body.rotary.turns, watching, checkpointed=False
    )
    expected = their_states(main, module, ids)
    for (state, _, rows), their_state in zip(mine, expected, strict=True):
        assert difference(rows.scatter(state)[:, : their_state.shape[1]], their_state) <= 1e-5

    losses = [
        F.cross_entropy(main.lm_head(state)[:, :-1].flatten(0, 1), ids[:, depth + 2 :].flatten(), reduction="sum")
        for depth, state in enumerate(expected)
    ]
    their_loss, loss = torch.stack(losses).mean(), ours.auxiliary.further_sum(ids)
    assert difference(loss, their_loss) <= 1e-5
    loss.backward()
    their_loss.backward()
    gradients = {name: parameter.grad for name, parameter in main.named_parameters()}
    first = ours.config.num_hidden_layers
    for name, parameter in module.named_parameters():
        if name.startswith("layers."):
            number, rest = name.removeprefix("layers.").split(".", 1)
            rest = rest.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
            gradients[f"model.layers.{int(number) + first}.{rest}"] = parameter.grad
    for name, parameter in ours.named_parameters():
        if gradients[name].abs().max() > 1e-12:
            assert difference(parameter.grad, gradients[name]) <= 1e-4, name


def test_the_folder_holds_the_module_under_its_published_names(folder) -> None:
    names = load_file(folder / WEIGHTS)
    for rest in (
        "enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight", "shared_head.head.weight",
        "embed_tokens.weight", "input_layernorm.weight", "self_attn.o_proj.weight", "mlp.gate.weight",
        "mlp.gate.e_score_correction_bias", "mlp.experts.0.up_proj.weight", "mlp.shared_experts.up_proj.weight",
    ):  # fmt: skip
        assert any(name.endswith(f"layers.2.{rest}") for name in names), rest
    assert torch.equal(names["model.layers.2.embed_tokens.weight"], names["model.embed_tokens.weight"])
    again = read_model(folder)
    again.save_pretrained(folder / "again")
    back = load_file(folder / "again" / WEIGHTS)
    assert names.keys() == back.keys()
    assert all(torch.equal(names[name], back[name]) for name in names)


@pytest.fixture
def one(tmp_path):
    model = DeepseekForCausalLM(preset("mini", **SHAPES["one"]))
    shake(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, keep) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if keep(name)}, folder / WEIGHTS)


def test_copies_of_embedding_and_head_may_be_missing_but_not_different(one) -> None:
    rewrite(one, lambda name: "shared_head.head" not in name and "2.embed_tokens" not in name)
    read_model(one)
    tensors = load_file(one / WEIGHTS)
    save_file(
        {**tensors, "model.layers.2.embed_tokens.weight": tensors["model.embed_tokens.weight"] + 1}, one / WEIGHTS
    )
    with pytest.raises(UserError, match=r"layers.2.embed_tokens.weight: differs from model.embed_tokens.weight"):
        read_model(one)


def test_a_config_that_announces_a_module_the_folder_lacks_is_one_clear_line(one) -> None:
    rewrite(one, lambda name: not name.startswith("model.layers.2."))
    with pytest.raises(
        UserError, match=r"num_nextn_predict_layers: 1, but .* no tensor of model.layers.2; set .* to 0"
    ):
        read_model(one)
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 0}))
    assert len(read_model(one).model.layers) == 2


def test_the_module_changes_neither_logits_nor_decoding() -> None:
    ours, peer = pair(**SHAPES["one"])
    ids = ids_for(ours, 2, 9)
    assert difference(ours(ids).logits, peer(ids, use_cache=False).logits) <= 1e-5
    decoder = LatentDecoder(ours)
    decoder.allocate(blocks=6, block_size=3, longest=9)
    tables = torch.arange(6).view(2, 3)
    logits = [decoder.prefill(ids[:, :4], torch.tensor([0, 0]), torch.tensor([4, 4]), tables)]
    logits += [decoder.step(ids[:, place], torch.tensor([place, place]), tables) for place in range(4, 9)]
    assert difference(torch.stack(logits, 1), ours(ids).logits[:, 3:]) <= 1e-5


def summed(model, labels, **inputs) -> float:
    model(**inputs)
    return float(model.auxiliary.further_sum(labels).detach())


@pytest.mark.parametrize("shape", ["one", "two"])
def test_padded_and_packed_rows_lose_what_each_loses_alone(shape) -> None:
    model = DeepseekForCausalLM(preset("mini", **SHAPES[shape])).train()
    shake(model)
    model.auxiliary.begin(balance=False, further=True)
    lengths = [5, 2, 1, 9, 3]  # of one token nothing is predicted, of two nothing further
    alone = [ids_for(model, 1, length, seed=length) for length in lengths]
    expected = sum(summed(model, ids, input_ids=ids) for ids in alone)
    ids, mask = torch.zeros(5, 9, dtype=torch.long), torch.zeros(5, 9, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, 9 - length :], mask[row, 9 - length :] = alone[row][0], 1
    labels = ids.masked_fill(mask == 0, -100)
    assert summed(model, labels, input_ids=ids, attention_mask=mask) == pytest.approx(expected, rel=1e-5)
    packed, positions = torch.cat(alone, 1), torch.cat([torch.arange(length) for length in lengths])[None]
    assert summed(model, packed, input_ids=packed, position_ids=positions) == pytest.approx(expected, rel=1e-5)


def test_only_labels_that_carry_loss_count() -> None:
    model = DeepseekForCausalLM(preset("mini", **SHAPES["one"])).train()
    shake(model)
    model.auxiliary.begin(balance=False, further=True)
    ids = ids_for(model, 1, 12)
    parts = []
    for places in (range(2, 7), range(7, 12)):
        labels = torch.full_like(ids, -100)
        labels[0, list(places)] = ids[0, list(places)]
        parts.append(summed(model, labels, input_ids=ids))
    assert sum(parts) == pytest.approx(summed(model, ids, input_ids=ids), rel=1e-5)


def test_the_loss_in_pieces_and_with_checkpointing_has_the_same_gradient(monkeypatch) -> None:
    model = DeepseekForCausalLM(preset("mini", **SHAPES["two"])).train()
    shake(model)
    model.auxiliary.begin(balance=False, further=True)
    ids, gradients = ids_for(model), []
    for pieces in (False, True):
        model.zero_grad()
        if pieces:
            monkeypatch.setattr(mtp, "PIECE", 5 * model.config.vocab_size)
            model.activation_checkpointing_enable()
        model(ids)
        model.auxiliary.further_sum(ids).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-4, atol=1e-5)
