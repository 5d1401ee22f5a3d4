"""One rank leads, the others follow: the leader runs the stage and calls, all ranks compute.

Rank 0 alone reads recipes, judges, writes and decides what is sampled next. Before it calls its decoder
or model it tells the others what it is about to call; they make the same call on their part and meet it
in the sums. So nothing outside this file has to run in lockstep, and a harvest resumes as in one process.
Messages are pickled between processes of one run; they come from no file. A few hundred microseconds a
step on a CPU (docs/parallel.md); steps are not overlapped with messages.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UserError
from distill.progress import Progress
from distill.sampling.protocols import Decoder, LoadedModel
from teacher.decoder import LatentDecoder
from teacher.loader import with_tokenizer
from teacher.model import DeepseekForCausalLM
from teacher.parallel.joins import agreed, groups_of, leave, own_device
from teacher.parallel.layout import Layout
from teacher.parallel.loading import load_share

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOAD, FORWARD, TOGETHER, END = "load", "forward", "together", "end"
"""Messages that are no method of a decoder."""
SHARED = ("model", "lm_head")
"""Modules of the language model that all ranks run together; a caller may call them one by one."""


def open_teacher(
    folder: Path,
    tensor: int,
    expert: int,
    *,
    dtype: str,
    device: str,
    backends: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[LoadedModel, Decoder]:
    """On the leader: load a folder over all ranks. Raises UserError where any rank could not load its part.

    Calling the model, or a method of the decoder, computes on all ranks. `backends`: keywords of `load_share`.
    """
    layout, chosen = Layout(tensor, expert, 0), dict(backends or {})
    _tell(LOAD, folder, tensor, expert, dtype, device, chosen)
    model = _load_together(folder, layout, dtype, device, chosen, progress)
    loaded, decoder = with_tokenizer(model, folder), LeadDecoder(LatentDecoder(model))
    if layout.world > 1:
        for part in SHARED:
            getattr(model, part).register_forward_pre_hook(partial(decoder.tell_forward, part), with_kwargs=True)
    return loaded, cast(Decoder, decoder)


def together(function: Callable[..., T], *arguments: Any) -> T:
    """On the leader: call a function of a module on every rank, for what runs in lockstep, training say.

    Where it fails the leader leaves, since others may be in the middle of a sum: that ends them.
    """
    _tell(TOGETHER, function, *arguments)
    try:
        return function(*arguments)
    except BaseException:
        leave()
        raise


def dismiss() -> None:
    """On the leader: let the others end."""
    _tell(END)


def follow(rank: int) -> None:
    """On every other rank: compute what the leader calls until it dismisses."""
    model: DeepseekForCausalLM | None = None
    decoder: LatentDecoder | None = None
    while True:
        name, arguments, keywords = _hear()
        if name == END:
            return
        if name == TOGETHER:
            function, *given = arguments
            try:
                function(*given)
            except UserError:  # agreed, or found in what all ranks have: the leader says it
                return
            continue
        try:
            if name == LOAD:
                folder, tensor, expert, dtype, device, backends = arguments
                model = _load_together(folder, Layout(tensor, expert, rank), dtype, device, backends)
                decoder = LatentDecoder(model)
            elif name == FORWARD:
                assert model is not None
                part, *given = arguments
                with torch.inference_mode():
                    getattr(model, part)(
                        *_placed(tuple(given), model),
                        **dict(zip(keywords, _placed(tuple(keywords.values()), model), strict=True)),
                    )
            else:
                assert model is not None
                getattr(decoder, name)(*_placed(arguments, model), **keywords)
        except UserError as error:  # the leader refuses the same call with the same words, and says them
            logger.info("rank %d: %s", rank, error)


class LeadDecoder:
    """A decoder whose every method runs on all ranks; attributes are the leader's own."""

    def __init__(self, decoder: LatentDecoder) -> None:
        self._decoder = decoder
        self._calling = False
        """Whether all ranks are in a call: the modules it calls in turn are not told again."""

    def tell_forward(
        self, part: str, module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        """Before a shared module runs: let all ranks run it, unless they do so already."""
        if not self._calling:
            _tell(FORWARD, part, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._decoder, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            _tell(name, *arguments, **keywords)
            self._calling = True
            try:
                return found(*arguments, **keywords)
            finally:
                self._calling = False

        return call


def _load_together(
    folder: Path,
    layout: Layout,
    dtype: str,
    device: str,
    backends: Mapping[str, str],
    progress: Progress | None = None,
) -> DeepseekForCausalLM:
    """Load this rank's part; UserError on every rank when one fails, in that rank's words."""
    groups = groups_of(layout)
    where = own_device(device, layout.rank)

    def load() -> DeepseekForCausalLM:
        return load_share(folder, groups, dtype=dtype, device=where, progress=progress, **backends)

    return agreed(load) if layout.world > 1 else load()


def _tell(name: str, *arguments: Any, **keywords: Any) -> None:
    if dist.is_initialized():
        message = [(name, tuple(map(_portable, arguments)), {key: _portable(value) for key, value in keywords.items()})]
        dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))


def _hear() -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    message: list[Any] = [None]
    dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
    heard: tuple[str, tuple[Any, ...], dict[str, Any]] = message[0]
    return heard


def _portable(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _placed(values: tuple[Any, ...], model: DeepseekForCausalLM) -> tuple[Any, ...]:
    """Tensors on this rank's device."""
    device = next(model.parameters()).device
    return tuple(value.to(device) if isinstance(value, Tensor) else value for value in values)
