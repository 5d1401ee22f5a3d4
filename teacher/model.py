"""DeepSeek-V3, V2 and V2-Lite as a transformers model: latent attention, routed experts, published tensor names.

Runs in transformers' Trainer and TRL's SFT and GRPO trainers. Keeps no cache: speaking is
`teacher.decoder`'s business, and `generate` here recomputes the whole prefix each token,
right but slow. Modules for further tokens (`teacher.mtp`) stand behind the last layer, as on
disk; a plain forward pass does not run them.
"""

from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from distill.train.ranks import Ranks
from teacher.attention import LatentAttention, choose_attention
from teacher.auxiliary import Auxiliary, Pass
from teacher.checkpoint import to_published
from teacher.config import TeacherConfig
from teacher.moe import Experts, Router, choose_backend
from teacher.mtp import build_layers, shared_copies
from teacher.norm import RMSNorm
from teacher.rotary import Rotary
from teacher.rows import Rows, find_rows

# B batch rows, T batch width, N real tokens, D model width, V vocabulary


class DeepseekPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about both classes below."""

    config_class = TeacherConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DecoderLayer",)
    _keep_in_fp32_modules_strict = ("e_score_correction_bias",)
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding | Router):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, Experts):
            nn.init.normal_(module.gate_up_proj, std=std)
            nn.init.normal_(module.down_proj, std=std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)


class DeepseekModel(DeepseekPreTrainedModel):
    """Embedding, layers and the last norm."""

    auxiliary: Auxiliary | None = None
    """Set by the language model around this one."""

    def __init__(
        self, config: TeacherConfig, experts_backend: str = "grouped_mm", attention_backend: str = "sdpa"
    ) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.depth = config.num_hidden_layers
        experts, attention = (
            choose_backend(experts_backend, tell=False),
            choose_attention(attention_backend, tell=False),
        )
        self.layers = build_layers(config, experts, attention)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Hidden states (B, T, D), zeros at padding. Further keywords of trainers change nothing here."""
        if past_key_values is not None:
            raise ValueError("this model keeps no cache: call it without past_key_values, or use teacher.decoder")
        embedded_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, width = embedded_BTD.shape[:2]
        rows = find_rows(batch, width, embedded_BTD.device, attention_mask, position_ids)
        embedded_ND = rows.gather(embedded_BTD)
        meter = self.auxiliary.meter if self.auxiliary and self.training and torch.is_grad_enabled() else None
        with meter.watching(rows) if meter else nullcontext():
            hidden_ND = self.run(embedded_ND, rows)
        if meter and self.auxiliary and self.auxiliary.keeps_pass:
            self.auxiliary.last = Pass(hidden_ND, embedded_ND, rows)
        return BaseModelOutput(last_hidden_state=rows.scatter(hidden_ND))

    def run(self, x_ND: Tensor, rows: Rows, latents: list[Tensor] | None = None) -> Tensor:
        """All layers and the last norm over real tokens; `latents` collects what a cache keeps, layer by layer."""
        turns_NP = self.rotary.turns(rows.positions_N)
        for layer in islice(self.layers, self.depth):
            if self.gradient_checkpointing and self.training:
                x_ND = checkpoint(layer, x_ND, rows, turns_NP, use_reentrant=False)
            else:
                x_ND = layer(x_ND, rows, turns_NP, latents)
        output: Tensor = self.norm(x_ND)
        return output


class DeepseekForCausalLM(DeepseekPreTrainedModel, GenerationMixin):
    """The language model. Backends are those of `teacher.moe` and `teacher.attention`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - transformers reads a class dict

    def __init__(
        self, config: TeacherConfig, experts_backend: str = "grouped_mm", attention_backend: str = "sdpa"
    ) -> None:
        super().__init__(config)
        self.model = DeepseekModel(config, experts_backend, attention_backend)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.auxiliary = self.model.auxiliary = Auxiliary(self)
        """What trainers may ask of this model beyond logits (`distill.train.auxiliary`)."""
        self.ranks: Ranks | None = None
        """Who shares its experts in training: set by `teacher.parallel.training`."""
        self.post_init()

    def save_pretrained(self, save_directory: Any, *args: Any, state_dict: Any = None, **kwargs: Any) -> None:
        """Write the folder with the published tensor names, one tensor an expert.

        Modules for further tokens get their copies of embedding and head, as published.
        """
        published = to_published(self.state_dict() if state_dict is None else state_dict)
        for name, source in shared_copies(self.config).items():
            published[name] = published[source].clone()
        super().save_pretrained(save_directory, *args, state_dict=published, save_original_format=False, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def set_experts_backend(self, name: str) -> None:
        """Multiply experts this way from now on, and log why."""
        backend = choose_backend(name)
        for module in self.modules():
            if isinstance(module, Experts):
                module.backend = backend

    def set_attention_backend(self, name: str) -> None:
        """Attend this way from now on where heads are expanded, and log why."""
        backend = choose_attention(name)
        for module in self.modules():
            if isinstance(module, LatentAttention):
                module.backend = backend

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits (B, T or `logits_to_keep`, V), and the next-token loss when `labels` are given (-100 ignored)."""
        hidden_BTD = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
        ).last_hidden_state
        if not isinstance(logits_to_keep, int):
            hidden_BTD = hidden_BTD[:, logits_to_keep]
        elif logits_to_keep:
            hidden_BTD = hidden_BTD[:, -logits_to_keep:]
        logits = self.lm_head(hidden_BTD)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)
