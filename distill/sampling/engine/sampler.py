"""EngineSampler: the `Sampler` protocol over an engine and a loaded model.

Renders conversations, passes token ids to the engine and text back. Requests are read as
the engine has room, and answered in order of completion.
"""

from collections.abc import Iterable, Iterator

from distill.prompts import Chat
from distill.records import Completion, SamplerId
from distill.sampling.engine.engine import Engine
from distill.sampling.engine.jobs import Job, RolledOut
from distill.sampling.engine.stops import cut
from distill.sampling.protocols import Answered, Decoder, LoadedModel, Request, TokenScores
from distill.sampling.teacher_forcing import score_many


class EngineSampler:
    """A loaded model that speaks."""

    def __init__(
        self,
        loaded: LoadedModel,
        decoder: Decoder,
        *,
        name: str,
        slots: int,
        capacity: int,
        blocks: int | None = None,
    ) -> None:
        """`name` goes into trace ids. `capacity` bounds prompt plus completion in tokens, `blocks` the cache."""
        self.model = loaded.model
        self.chat = Chat(loaded.tokenizer)
        device = next(loaded.model.parameters()).device
        self.engine = Engine(
            decoder,
            self.chat,
            slots=slots,
            capacity=capacity,
            blocks=blocks,
            device=device,
            end_ids=_end_ids(loaded.model),
        )
        lossy = "" if decoder.weights == "exact" else f"-{decoder.weights}-weights"
        self.identity = SamplerId(name=name + lossy, revision=loaded.fingerprint + lossy)
        self.think_open = self.chat.think_open

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers in order of completion. Raises UserError for a prompt beyond the capacity."""
        asked: dict[str, Request] = {}

        def jobs() -> Iterator[Job]:
            for number, request in enumerate(requests, 1):
                name = f"request {number} ({request.id})"
                asked[name] = request
                seeds = tuple(request.seed + k for k in range(request.n))
                yield Job(name, self.chat.prompt_ids(request.messages), request.params, seeds)

        for job, samples in self.engine.run(jobs()):
            request = asked.pop(job.name)
            yield Answered(request, tuple(self._completion(request, job, sample) for sample in samples))

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        """Log-probability of every token after the first, and the `top_k` likeliest at its place."""
        return next(self.score_many([token_ids], top_k))

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """`score` of each sequence in the order given, sequences of like length side by side."""
        return score_many(self.model, sequences, top_k)

    def _completion(self, request: Request, job: Job, sample: RolledOut) -> Completion:
        said = sample.ids[:-1] if sample.ids[-1:] and sample.ids[-1] in self.engine.end_ids else sample.ids
        last = request.messages[-1]
        text = self.chat.decode_after(last.content, said) if last.role == "assistant" else self.chat.decode(said)
        return Completion(
            text=cut(text, job.params.stop),
            finish=sample.finish,
            prompt_tokens=len(job.prompt_ids),
            completion_tokens=len(sample.ids),
            token_ids=tuple(sample.ids),
            logprobs=tuple(sample.logprobs),
            top_logprobs=None if sample.top is None else tuple(tuple(place) for place in sample.top),
        )


def _end_ids(model: object) -> tuple[int, ...]:
    """End tokens the checkpoint names in its generation config, beside the chat's own."""
    generation = getattr(model, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    if named is None:
        return ()
    return (named,) if isinstance(named, int) else tuple(named)
