"""Budget forcing: a thought cut by the token limit goes on where it stopped (s1, arXiv 2501.19393, section 3.1).

The truncated trace stays as it is; the continuation is a trace of its own, whose text is the
parent's with the rest behind it. `say` stands between the two: nothing, s1's "Wait", or
`</think>` to have an answer now. Token ids and log-probabilities are kept when nothing was
put between: then they are those of one long sample.
Does not hinder a thought from ending: s1 does so by replacing its end-of-thinking token.
"""

from pydantic import ConfigDict, Field

from distill.prompts import END_THINK
from distill.records import Completion, Record, Trace


class ForcingConfig(Record):
    """Continue thoughts that the token limit cut; both versions are kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_tokens: int = Field(gt=0)
    """Longest continuation, in the sampler's tokens."""
    times: int = Field(default=1, gt=0)
    """How often a thought that is cut again goes on."""
    say: str = ""
    """Put between what was said and what follows, `Wait` or `</think>`, spaces included."""


def whole(parent: Trace, say: str, rest: Completion) -> Completion:
    """A truncated trace and what a sampler said after it, as the one completion they are together.

    A server that returns the thought apart has called everything up to `</think>` a thought.
    """
    text = rest.text
    if rest.reasoning:
        text = f"{rest.reasoning} {END_THINK} {text}" if text.strip() else rest.reasoning
    ids = logprobs = top = None
    if not say:
        if parent.token_ids is not None and rest.token_ids is not None:
            ids = parent.token_ids + rest.token_ids
        if parent.logprobs is not None and rest.logprobs is not None:
            logprobs = parent.logprobs + rest.logprobs
        if parent.top_logprobs is not None and rest.top_logprobs is not None:
            top = parent.top_logprobs + rest.top_logprobs
    return Completion(
        text=parent.text + say + text,
        finish=rest.finish,
        prompt_tokens=parent.prompt_tokens,
        completion_tokens=parent.completion_tokens + rest.completion_tokens,
        token_ids=ids,
        logprobs=logprobs,
        top_logprobs=top,
        cached_tokens=rest.cached_tokens,
    )
