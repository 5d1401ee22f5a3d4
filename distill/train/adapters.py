"""LoRA adapters in a live model: put in, trained alone, kept beside the checkpoint, merged into it.

PEFT's layers are put into the model where its linear layers stood, so that it stays the model every other part of
training knows. Over a quantized base (`distill.quantized`) the linear layers are quantized here, whoever's model it
is, after the whole model was read into memory once. Routed experts of the teacher are 3-D tensors without linear
layers: they, routers, embedding, head and modules for further tokens get no adapter and stay as they are. What
processes share by experts or by ZeRO is not covered.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import UserError, did_you_mean
from distill.quantized import BLOCK, OUTPUT_MULTIPLE, fits, keep_unpacked
from distill.runs import sync
from distill.train.lora import LoraConfig
from distill.train.schedule import ROUTERS

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "adapter"
"""Inside the checkpoint's folder: the adapters in PEFT's format."""
NAME = "default"
PEFT_PREFIX = "base_model.model."
"""Of tensor names in PEFT's files."""

# O outputs, I inputs, r rank


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a model."""

    config: LoraConfig
    layers: tuple[str, ...]
    """Names of the layers that have one."""
    kept_whole: tuple[str, ...]
    """Of these, layers whose shape the 4-bit kernels do not take."""
    trained: int
    """Numbers of all adapters."""
    numbers: int
    """Numbers of the model without them."""
    base_bytes: int
    """Bytes of the model without them, as it is held while training."""
    whole_bytes: int
    """The same before anything was quantized."""

    @property
    def lines(self) -> tuple[str, ...]:
        """For a report."""
        config = self.config
        scale = f"alpha {config.alpha:g}{', rslora' if config.rslora else ''}"
        line = (
            f"lora: rank {config.rank}, {scale}, {len(self.layers)} layers, {self.trained:,} numbers trained "
            f"({self.trained / self.numbers:.1%} of {self.numbers:,})"
        )
        if config.base == "full":
            return (line,)
        held = f"base {config.base}: {self.base_bytes:,} bytes held, {self.whole_bytes:,} unquantized"
        kept = f"; whole for their shape: {', '.join(self.kept_whole)}" if self.kept_whole else ""
        return (line, held + kept)

    def state(self, model: Any) -> "dict[str, Tensor]":
        """Tensors of all adapters by name."""
        return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

    def load(self, model: Any, state: "Mapping[str, Tensor]") -> None:
        """Put `state` back. Every adapter must be in it and nothing else."""
        own = self.state(model)
        assert own.keys() == state.keys(), "a state of the same table has the same adapters"
        for name, weight in own.items():
            weight.copy_(state[name])

    def check_gradients(self, model: Any) -> None:
        """UserError where an adapter took no part in a backward pass; nothing else would say so."""
        dead = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
        if dead:
            raise UserError(
                f"lora: {len(dead)} adapters got no gradient ({dead[0]}, ...): this model does not call those layers; "
                "name others in lora.targets"
            )

    def deltas(self, model: Any) -> "dict[str, Tensor]":
        """What each adapter adds to its layer's weight, float32 (O, I) on the CPU, by layer name."""
        found: dict[str, Tensor] = {}
        for name in self.layers:
            layer = model.get_submodule(name)
            a_rI, b_Or = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            found[name] = (layer.scaling[NAME] * (b_Or.detach().float() @ a_rI.detach().float())).cpu()
        return found

    def base_weights(self, model: Any) -> "dict[str, Tensor]":
        """The weights each layer was trained on, quantization undone, float32 (O, I) on the CPU, by layer name."""
        return {name: _weight(model.get_submodule(name).base_layer).cpu() for name in self.layers}

    def remove(self, model: Any) -> None:
        """Leave the model as it was without adapters."""
        for name in self.layers:
            model.set_submodule(name, model.get_submodule(name).base_layer)
        model.requires_grad_(True)

    def save(self, model: Any, folder: Path, base: str) -> None:
        """Write the adapters in PEFT's format into a new folder; `base` names the model they belong to."""
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        tensors = {
            PEFT_PREFIX + name.replace(f".{NAME}.", "."): weight.contiguous().cpu()
            for name, weight in self.state(model).items()
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = _peft_config(self.config, self.layers)
        settings.base_model_name_or_path, settings.inference_mode = base, True
        settings.save_pretrained(str(folder))
        for path in (*folder.iterdir(), folder):
            sync(path)


def adapt(model: Any, config: LoraConfig, *, seed: int, device: str) -> Adapters:
    """Freeze a model on the CPU, hold its base as the table says, put adapters in, move it to `device`.

    The same seed gives the same adapters. Raises UserError for targets the model does not have.
    """
    import torch

    layers = find_layers(model, config.targets)
    numbers = sum(weight.numel() for weight in model.parameters())
    whole_bytes = _bytes(model)
    kept = quantize_layers(model, layers, config.base, device) if config.base != "full" else []
    model.to(device)
    base_bytes = _bytes(model)
    model.requires_grad_(False)
    settings = _peft_config(config, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in layers:
            model.set_submodule(name, _with_adapter(model.get_submodule(name), settings))
    keep_unpacked(model)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Adapters(config, tuple(layers), tuple(kept), trained, numbers, base_bytes, whole_bytes)


def find_layers(model: Any, targets: Iterable[str]) -> list[str]:
    """Names of the linear layers that get an adapter. Raises UserError naming what there is."""
    found = _linear_layers(model)
    if not found:
        raise UserError(f"lora: model_type {model.config.model_type} has no linear layers that could get an adapter")
    for target in targets:
        if target not in found:
            why = " (the head is shared by every token and stays as it is)" if target == "lm_head" else ""
            raise UserError(
                f"lora.targets: {target!r}: no such linear layer{why}{did_you_mean(target, found)}; there are "
                f"{', '.join(sorted(found))}"
            )
    chosen = {name for kind in (targets or found) for name in found[kind]}
    return [name for name, _ in model.named_modules() if name in chosen]


def layer_sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Of the linear layers that may get an adapter, by their name inside a layer: numbers, and inputs plus outputs."""
    sizes = {}
    for kind, names in _linear_layers(model).items():
        layers = [model.get_submodule(name) for name in names]
        ends = sum(layer.in_features + layer.out_features for layer in layers)
        sizes[kind] = (sum(layer.weight.numel() for layer in layers), ends)
    return sizes


def quantize_layers(model: Any, names: list[str], base: str, device: str) -> list[str]:
    """Put bitsandbytes layers on `device` where those of a model on the CPU stand, one after the other.

    Returns the names of those left whole for their shape. Raises UserError when that is all of them.
    """
    import bitsandbytes as bnb

    kept = [name for name in names if base == "nf4" and not fits(model.get_submodule(name))]
    if len(kept) == len(names):
        raise UserError(
            f"lora.base = 'nf4': no layer fits (inputs must be a multiple of {BLOCK}, outputs of {OUTPUT_MULTIPLE}); "
            "use 'int8'"
        )
    for name in names:
        if name in kept:
            continue
        layer = model.get_submodule(name)
        shape = (layer.in_features, layer.out_features, layer.bias is not None)
        if base == "nf4":
            small: Any = bnb.nn.Linear4bit(*shape, compress_statistics=False, quant_type="nf4", device="meta")
            small.weight = bnb.nn.Params4bit(
                layer.weight.detach(), requires_grad=False, compress_statistics=False, quant_type="nf4", module=small
            )
        else:
            small = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, device="meta")
            small.weight = bnb.nn.Int8Params(layer.weight.detach(), requires_grad=False, has_fp16_weights=False)
        small.weight, small.bias = small.weight.to(device), layer.bias  # moving it is what quantizes it
        model.set_submodule(name, small.train(layer.training))
    return kept


def _linear_layers(model: Any) -> dict[str, list[str]]:
    """Names of linear layers but head, routers and modules for further tokens, by their last part."""
    from torch import nn

    head, depth = model.get_output_embeddings(), getattr(model.config, "num_hidden_layers", None)
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if (
            isinstance(module, nn.Linear)
            and module is not head
            and kind not in ROUTERS
            and not _is_further(name, depth)
        ):
            found.setdefault(kind, []).append(name)
    return found


def _with_adapter(layer: Any, settings: Any) -> Any:
    """PEFT's layer around a linear one. Not `get_peft_model`: it takes our teacher for transformers' DeepSeek-V3, whose
    experts are other tensors."""
    import bitsandbytes as bnb
    from peft.tuners import lora

    kinds = {bnb.nn.Linear4bit: lora.Linear4bit, bnb.nn.Linear8bitLt: lora.Linear8bitLt}
    kind: Any = kinds.get(type(layer), lora.Linear)
    wrapped = kind(layer, NAME, config=settings, r=settings.r, lora_alpha=settings.lora_alpha)
    return wrapped.train(layer.training)


def _peft_config(config: LoraConfig, layers: Iterable[str]) -> Any:
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=list(layers),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _is_further(name: str, depth: int | None) -> bool:
    """Whether a layer belongs to a module for further tokens, which stand behind the last layer."""
    parts = name.split(".")
    return depth is not None and "layers" in parts and int(parts[parts.index("layers") + 1]) >= depth


def _weight(layer: Any) -> "Tensor":
    """A linear layer's weight (O, I), float32."""
    import bitsandbytes as bnb

    weight = layer.weight
    if isinstance(layer, bnb.nn.Linear4bit):
        whole: Tensor = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    elif isinstance(layer, bnb.nn.Linear8bitLt):
        scales = layer.state.SCB if weight.SCB is None else weight.SCB  # the first pass moves them
        whole = bnb.functional.int8_vectorwise_dequant(weight.data, scales)
    else:
        whole = weight.detach()
    return whole.float()


def _bytes(model: Any) -> int:
    """Bytes of all weights; scales of quantized ones included."""
    total = 0
    for weight in model.parameters():
        total += weight.numel() * weight.element_size()
        scales = getattr(getattr(weight, "quant_state", None), "absmax", None)
        for extra in (scales, getattr(weight, "SCB", None)):
            total += extra.numel() * extra.element_size() if extra is not None else 0
    return total
