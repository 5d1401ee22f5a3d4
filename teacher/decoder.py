"""Decode from the latent cache: the teacher's side of the engine.

A token keeps C + R numbers a layer: the normed latent and the rotated shared key. One
step never expands them: W_UK is absorbed into the query and W_UV into the output
projection, which leaves attention with one wide key shared by all heads (DeepSeek-V2,
arXiv 2405.04434, section 2.1.2). Prefill runs the model itself, expanded. Rows may stand
at different positions; a step costs the longest of them. No paging: a slot owns its
capacity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import UserError
from teacher.attention import LATENT_EPS, LatentAttention
from teacher.model import DecoderLayer, DeepseekForCausalLM
from teacher.rotary import turn_in_place
from teacher.rows import find_rows

# B rows of a step, T prompt width, D model width, H heads, Q query width, C latent width, R rotated
# width, W = C + R cached width, L cached length looked at, S slots looked at, V vocabulary


class LatentDecoder:
    """`distill.sampling.protocols.Decoder` over a model, live or loaded; holds a reference to it."""

    def __init__(self, model: DeepseekForCausalLM) -> None:
        self.model = model
        self.vocab_size: int = model.config.vocab_size
        self.width: int = model.config.kv_lora_rank + model.config.qk_rope_head_dim
        self.cache_values_per_token: int = self.width * model.config.num_hidden_layers
        self.capacity = 0
        self.refresh()

    @torch.inference_mode()
    def allocate(self, slots: int, capacity: int) -> None:
        """Make the cache: layers x slots x capacity x W. Contents are lost."""
        limit = self.model.config.max_position_embeddings
        if capacity > limit:
            raise UserError(f"cache capacity {capacity}: beyond the model's max_position_embeddings ({limit})")
        embedding = self.model.model.embed_tokens.weight
        self.capacity = capacity
        layers = self.model.config.num_hidden_layers
        # Zeros, not whatever memory held: a masked place still enters products, and NaN x 0 is NaN.
        self.cache = torch.zeros(layers, slots, capacity, self.width, dtype=embedding.dtype, device=embedding.device)

    @torch.inference_mode()
    def refresh(self) -> None:
        """Absorb the live model's weights anew; the cache is void."""
        self.layers = [_AbsorbedLayer(layer) for layer in self.model.model.layers]

    @torch.inference_mode()
    def prefill(self, ids_BT: Tensor, lengths_B: Tensor, slots_B: Tensor) -> Tensor:
        """Run right-padded prompts from position 0 into their slots; logits (B, V) at each last token."""
        batch, width = ids_BT.shape
        body = self.model.model
        mask_BT = torch.arange(width, device=ids_BT.device) < lengths_B[:, None]
        rows = find_rows(batch, width, ids_BT.device, mask_BT)
        latents: list[Tensor] = []
        hidden_ND = body.run(body.embed_tokens(rows.gather(ids_BT)), rows, latents)
        slot_N = slots_B.repeat_interleave(lengths_B)
        for cache, latent_NW in zip(self.cache, latents, strict=True):
            cache[slot_N, rows.positions_N] = latent_NW
        logits: Tensor = self.model.lm_head(hidden_ND[lengths_B.cumsum(0) - 1])
        return logits.float()

    @torch.inference_mode()
    def step(self, ids_B: Tensor, positions_B: Tensor, slots_B: Tensor) -> Tensor:
        """Append one token a row at its position; logits (B, V)."""
        body = self.model.model
        turns_BP = body.rotary.turns(positions_B)
        view = _View(positions_B, slots_B)
        x_BD = body.embed_tokens(ids_B)
        for cache, layer in zip(self.cache, self.layers, strict=True):
            x_BD = layer.step(x_BD, cache, view, turns_BP)
        logits: Tensor = self.model.lm_head(body.norm(x_BD))
        return logits.float()

    @torch.inference_mode()
    def copy(self, source: int, targets_B: Tensor, length: int) -> None:
        """Copy the first `length` tokens of a slot into others."""
        self.cache[:, targets_B, :length] = self.cache[:, source : source + 1, :length]


class _View:
    """The part of the cache a step looks at, and what each row may see of it.

    When most slots between the lowest and the highest are in use, attention runs over all
    of them in place, idle ones included: reading a slot costs less than copying it out.
    """

    def __init__(self, positions_B: Tensor, slots_B: Tensor) -> None:
        self.slots_B, self.positions_B = slots_B, positions_B
        self.length = int(positions_B.max()) + 1
        self.low, high = int(slots_B.min()), int(slots_B.max())
        self.span = high - self.low + 1
        self.rows = len(slots_B)
        self.in_place = 2 * self.rows >= self.span
        self.row_B = slots_B - self.low
        self.in_order = self.span == self.rows and bool(
            (self.row_B == torch.arange(self.rows, device=slots_B.device)).all()
        )
        last_S = positions_B
        if self.in_place and not self.in_order:
            last_S = positions_B.new_zeros(self.span).index_copy_(0, self.row_B, positions_B)
        seen_SL = torch.arange(self.length, device=positions_B.device) <= last_S[:, None]
        self.mask_S11L = torch.zeros(seen_SL.shape, device=positions_B.device).masked_fill_(~seen_SL, -torch.inf)[
            :, None, None
        ]

    def attend(self, query_BHW: Tensor, cache: Tensor) -> Tensor:
        """Latents each head read, (B, H, W); the last R columns mean nothing."""
        if self.in_place:
            key_SLW = cache[self.low : self.low + self.span, : self.length]
        else:
            key_SLW = cache[:, : self.length].index_select(0, self.slots_B)
        placed = self.in_place and not self.in_order
        query_SHW = query_BHW
        if placed:
            query_SHW = query_BHW.new_zeros(self.span, *query_BHW.shape[1:]).index_copy_(0, self.row_B, query_BHW)
        key_S1LW = key_SLW[:, None]
        # Heads stand in the place of queries: all share one key, which is also the value.
        mask = self.mask_S11L.to(query_BHW.dtype)
        read_SHW = F.scaled_dot_product_attention(query_SHW[:, None], key_S1LW, key_S1LW, attn_mask=mask, scale=1.0)[
            :, 0
        ]
        return read_SHW.index_select(0, self.row_B) if placed else read_SHW


class _AbsorbedLayer:
    """One layer as a step runs it: weights folded once, so that attention is two products and a read."""

    def __init__(self, module: DecoderLayer) -> None:
        self.module = module
        attention = module.self_attn
        self.heads, self.latent_width = attention.heads, attention.latent_width
        self.interleave = attention.interleave
        self.q_lora = attention.q_lora
        self.query_in, self.output = _absorbed_query(attention), _absorbed_output(attention)
        self.key_in, self.key_bias = attention.kv_a_proj_with_mqa.weight, attention.kv_a_proj_with_mqa.bias
        if not self.q_lora:  # one product gives the queries of all heads and, as one more head, the key
            self.query_in = torch.cat((self.query_in, self.key_in))
            if self.key_bias is not None:
                self.key_bias = torch.cat(
                    (self.key_bias.new_zeros(len(self.query_in) - len(self.key_bias)), self.key_bias)
                )

    def step(self, x_BD: Tensor, cache: Tensor, view: _View, turns_BP: Tensor) -> Tensor:
        """One token a row through the layer; writes its latent into `cache`."""
        attention = self.module.self_attn
        heads_BHW = self._project(self.module.input_layernorm(x_BD)).unflatten(-1, (self.heads + 1, -1))
        turn_in_place(heads_BHW, turns_BP, self.interleave)
        latent_BC = heads_BHW[:, -1, : self.latent_width]
        latent_BC.copy_(attention.kv_a_layernorm(latent_BC))
        cache[view.slots_B, view.positions_B] = heads_BHW[:, -1]
        read_BHC = view.attend(heads_BHW[:, :-1], cache)[..., : self.latent_width]
        x_BD = x_BD + F.linear(read_BHC.flatten(1), self.output, attention.o_proj.bias)
        output: Tensor = x_BD + self.module.mlp(self.module.post_attention_layernorm(x_BD))
        return output

    def _project(self, x_BD: Tensor) -> Tensor:
        """(B, (H + 1) * W): absorbed queries, then latent and shared key, not yet rotated or normed."""
        if not self.q_lora:
            return F.linear(x_BD, self.query_in, self.key_bias)
        attention = self.module.self_attn
        query = F.linear(attention.q_a_layernorm(attention.q_a_proj(x_BD)), self.query_in)
        return torch.cat((query, F.linear(x_BD, self.key_in, self.key_bias)), dim=-1)


def _absorbed_query(attention: LatentAttention) -> Tensor:
    """(H*W, D or q latent): W_UK^T W_Q without position, W_Q with it, softmax scale in both."""
    weight = (attention.q_b_proj if attention.q_lora else attention.q_proj).weight
    weight_HQD = weight.detach().unflatten(0, (attention.heads, -1)) * attention.scale
    nope_HND, rope_HRD = weight_HQD.split((attention.nope_width, attention.rope_width), dim=1)
    key_HNC = _expansion(attention)[:, : attention.nope_width]
    return torch.cat((key_HNC.transpose(1, 2) @ nope_HND, rope_HRD), dim=1).flatten(0, 1)


def _absorbed_output(attention: LatentAttention) -> Tensor:
    """(D, H*C): W_O W_UV."""
    value_HVC = _expansion(attention)[:, attention.nope_width :]
    output_DHV = attention.o_proj.weight.detach().unflatten(1, (attention.heads, -1))
    return (output_DHV.transpose(0, 1) @ value_HVC).transpose(0, 1).flatten(1)


def _expansion(attention: LatentAttention) -> Tensor:
    """W_UK above W_UV per head: (H, nope + V, C)."""
    return attention.kv_b_proj.weight.detach().unflatten(0, (attention.heads, -1))
