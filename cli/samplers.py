"""Which samplers a harvest or a bench speaks through: engine, oracle, endpoint, replay or transformers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cli.loading import Folders
from cli.ranks import expect_processes
from distill.curate.measure import MeasureConfig
from distill.errors import UserError
from distill.harvest import HarvestConfig
from distill.progress import Progress
from distill.prompts import Chat
from distill.recipe import StepContext
from distill.records import Message, Problem, fingerprint
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.protocols import Sampler
from distill.sampling.table import EngineConfig
from distill.selection import Ask, asking, read_problems, select
from distill.train.logits import LogitsConfig
from distill.train.on_policy_table import OnPolicyConfig
from evals.bench import BenchConfig, SamplerTable

MAX_SLOTS = 512
"""Rows sampled together; past this a step gains little on CPU."""
BATCH = 32
"""Rows transformers generates together."""


def engine_sampler(
    folder: Path,
    problems: Sequence[Problem],
    ask: Ask,
    max_tokens: int,
    samples: int,
    config: EngineConfig,
    progress: Progress | None = None,
) -> Sampler:
    """Our engine over a checkpoint folder, sized for these problems and no larger."""
    import torch

    from distill.sampling.engine import EngineSampler, room

    split = config.model_dump(include={"dtype", "tensor_parallel", "expert_parallel"})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, decoder = Folders(progress).engine(
        folder, device=device, weights=config.weights, backends=config.backends, **split
    )
    chat = Chat(loaded.tokenizer)
    capacity = max(len(chat.prompt_ids(ask(problem))) for problem in problems) + max_tokens
    rows = min(MAX_SLOTS, len(problems) * samples)
    size = room(decoder, capacity=capacity, rows=rows, cache_gb=config.cache_gb)
    return EngineSampler(loaded, decoder, name=folder.name, slots=size.slots, capacity=capacity, blocks=size.blocks)


@contextmanager
def harvest_samplers(context: StepContext) -> Iterator[dict[str, tuple[Sampler, str]]]:
    """The samplers of a harvest table by name, each with a fingerprint of the chat template it renders with."""
    config: HarvestConfig = context.config
    problems = read_problems(context.path("problems"))
    expect_processes(context.step, config)
    folders = iter(context.inputs.get("model" if config.teachers is None else "models", ()))
    with ExitStack() as stack:
        yield {
            name: _speaker(context, problems, name, next(folders) if one.model is not None else None, stack)
            for name, one in config.speakers.items()
        }


def _speaker(
    context: StepContext, problems: Sequence[Problem], name: str, model: Path | None, stack: ExitStack
) -> tuple[Sampler, str]:
    """One of them; what it has to close is left to `stack`."""
    config: HarvestConfig = context.config
    how = config.speakers[name]
    if how.sampler == "oracle":
        from distill.sampling.oracle import OracleSampler

        rates = how.model_dump(include={"terse_rate", "repeat_rate"})
        return OracleSampler(problems, error_rate=how.error_rate or 0.0, **rates), ""
    if how.sampler == "replay":
        from distill.sampling.replay import open_recording

        assert how.replay is not None, "checked with the config"
        return open_recording(how.replay, context.data), ""
    if how.sampler == "endpoint":
        assert how.endpoint is not None, "checked with the config"
        endpoint = stack.enter_context(_endpoint(how.endpoint, context.progress))
        return endpoint, _template(endpoint) if how.endpoint.tokenizer else ""
    assert model is not None, "checked with the config"
    sampler: Sampler
    if how.sampler == "transformers":
        import torch

        from distill.sampling.generate import GenerateSampler
        from students.loader import load_student

        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_student(model, dtype=how.dtype, device=device)
        sampler = GenerateSampler(loaded, name=model.name, batch=how.batch or BATCH)
    else:
        chosen, ask = select(problems, config.select, context.path("problems")), asking(how.instruction)
        longest, most = config.longest(name), config.most_samples(name)
        sampler = engine_sampler(model, chosen, ask, longest, most, how, context.progress)
    return sampler, _template(sampler)


def examined_samplers(context: StepContext) -> dict[str, Callable[[], AbstractContextManager[Sampler]]]:
    """What a bench examines beside checkpoints, by name; each is opened when its turn comes."""
    config: BenchConfig = context.config
    return {name: partial(_examined, context, table) for name, table in config.samplers.items()}


@contextmanager
def _examined(context: StepContext, table: SamplerTable) -> Iterator[Sampler]:
    if table.endpoint is not None:
        with _endpoint(table.endpoint, context.progress) as sampler:
            yield sampler
    elif table.replay is not None:
        from distill.sampling.replay import open_recording

        yield open_recording(table.replay, context.data)
    else:
        from distill.sampling.oracle import OracleSampler

        yield OracleSampler(read_problems(context.path("problems")), error_rate=table.error_rate or 0.0)


def measuring(context: StepContext, field: str = "model") -> tuple[Sampler, Chat, int]:
    """Who scores given tokens, the chat that renders for it, and the longest sequence it takes in tokens.

    `field` names the checkpoint, where the table gives no endpoint.
    """
    config: MeasureConfig | LogitsConfig | OnPolicyConfig = context.config
    if config.endpoint is not None:
        from distill.sampling.endpoint import EndpointSampler

        longest = config.context if isinstance(config, OnPolicyConfig) else config.max_tokens
        assert longest is not None, "checked with the config"
        chat = Chat(Folders().load(context.path("tokenizer")).tokenizer)
        return EndpointSampler(config.endpoint, say=context.progress.say), chat, longest
    import torch

    from distill.sampling.engine import EngineSampler

    folder = context.path(field)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, decoder = Folders(context.progress).engine(folder, device=device, dtype=config.dtype)
    sampler = EngineSampler(
        loaded, decoder, name=folder.name, slots=1, capacity=1
    )  # it speaks nothing, so it needs no cache
    return sampler, sampler.chat, int(loaded.model.config.max_position_embeddings)


@contextmanager
def _endpoint(endpoint: EndpointConfig, progress: Progress) -> Iterator[Sampler]:
    """Servers by their urls, or llama.cpp started on loopback for as long as the step lasts."""
    from distill.sampling.endpoint import EndpointSampler

    chat = Chat(tokenizer_named(endpoint.tokenizer)) if endpoint.tokenizer else None
    if not endpoint.serve:
        yield EndpointSampler(endpoint, chat=chat, say=progress.say)
        return
    from students.gguf import gguf_file
    from students.llama_server import llama_server

    with llama_server(gguf_file(endpoint.serve), model=endpoint.model, threads=os.cpu_count()) as url:
        yield EndpointSampler(endpoint.model_copy(update={"url": url, "serve": ""}), chat=chat, say=progress.say)


def _template(sampler: Any) -> str:
    return fingerprint(sampler.chat.prompt_text((Message(role="user", content="x"),)))


def tokenizer_named(name: str) -> Any:
    """The miniature's tokenizer, or the one of a folder."""
    if name == "mini":
        from distill.problems.vocabulary import mini_tokenizer

        return mini_tokenizer()
    from transformers import AutoTokenizer

    if not Path(name).is_dir():
        raise UserError(f"tokenizer {name!r}: expected 'mini' or a folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (ValueError, OSError) as error:
        raise UserError(f"tokenizer {name!r}: no tokenizer in it ({str(error).splitlines()[0]})") from error
    Chat(tokenizer)  # refuses one without a chat template
    return tokenizer
