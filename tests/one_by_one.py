"""What the engine must say: a full forward of a toy model for every token, one row at a time."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import RolledOut
from distill.sampling.engine.choice import choose, penalize, row_key, uniforms
from teacher.config import preset
from teacher.model import DeepseekForCausalLM

Toy = LlamaForCausalLM | DeepseekForCausalLM


def toy_student(chat: Chat, positions: int = 64, haste: float = 4) -> LlamaForCausalLM:
    """Of random weights that end some rows early; with less haste, fewer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[chat.end_id] *= haste
    return model


def toy_teacher(chat: Chat) -> DeepseekForCausalLM:
    """The same of the teacher's architecture."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    model = DeepseekForCausalLM(preset("mini", vocab_size=len(chat.tokenizer), initializer_range=0.3, **sizes)).eval()
    with torch.no_grad():
        model.lm_head.weight[chat.end_id] *= 4
    return model


@torch.no_grad()
def one_by_one(model: Toy, chat: Chat, prompt: list[int], params: Params, seed: int) -> RolledOut:
    """The slow definition."""
    ids, logprobs = list(prompt), []
    top: list[list[tuple[int, float]]] | None = [] if params.top_logprobs else None
    for place in range(params.max_tokens):
        logits = model(torch.tensor([ids])).logits[:, -1]
        uniform = uniforms(torch.tensor([row_key(seed)]), torch.tensor([place]))
        filters = (params.temperature, params.top_k, params.top_p, params.min_p)
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, ids] = True
        asked = penalize(logits, seen, torch.tensor([params.repetition_penalty or 1.0]))
        token = int(choose(asked, uniform, *(torch.tensor([value]) for value in filters)))
        ids.append(token)
        spread = logits.log_softmax(-1)[0]
        logprobs.append(float(spread[token]))
        if top is not None:
            best = spread.topk(params.top_logprobs or 0)
            top.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        if token == chat.end_id:
            return RolledOut(ids[len(prompt) :], logprobs, "stop", top)
    return RolledOut(ids[len(prompt) :], logprobs, "length", top)


@torch.no_grad()
def first_difference(
    model: Toy, chat: Chat, prompt: list[int], params: Params, seed: int, sample: RolledOut
) -> int | None:
    """Place of the first token that one row at a time would not have said, its end included; None when all agree.

    One forward over the whole sample: as long as every token agrees, it is the same forward.
    """
    logits_TV = model(torch.tensor([prompt + sample.ids])).logits[0, len(prompt) - 1 :]
    filters = [torch.tensor([value]) for value in (params.temperature, params.top_k, params.top_p, params.min_p)]
    seen = torch.zeros_like(logits_TV[:1], dtype=torch.bool)
    seen[0, prompt] = True
    for place, token in enumerate(sample.ids):
        uniform = uniforms(torch.tensor([row_key(seed)]), torch.tensor([place]))
        asked = penalize(logits_TV[place : place + 1], seen, torch.tensor([params.repetition_penalty or 1.0]))
        if int(choose(asked, uniform, *filters)) != token:
            return place
        seen[0, token] = True
    ended = sample.ids[-1:] == [chat.end_id]
    finish = "stop" if ended else "length" if len(sample.ids) == params.max_tokens else "cancelled"
    early = chat.end_id in sample.ids[:-1]
    return len(sample.ids) if early or finish != sample.finish else None
