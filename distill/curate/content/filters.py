"""Filters: which looks at single texts a curate step takes, in order, and with what limits.

What is cheap and what guards the others comes first. Each filter has a table of its own; "off" leaves it out.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from distill.curate.content.finding import Filter
from distill.curate.content.harm import Harm, HarmConfig
from distill.curate.content.personal import Personal, PersonalConfig
from distill.curate.content.style import (
    Format,
    FormatConfig,
    Language,
    LanguageConfig,
    Readability,
    ReadabilityConfig,
    Repetition,
    RepetitionConfig,
)
from distill.curate.content.whole import (
    Answer,
    AnswerConfig,
    Characters,
    CharactersConfig,
    Size,
    SizeConfig,
    ThinkBlock,
    ThinkBlockConfig,
)
from distill.recipe import StageConfig

Off = Literal["off"]


class ContentConfig(StageConfig):
    """The table `content` of a curate step: one table a filter, or "off"."""

    size: SizeConfig | Off = Field(default_factory=SizeConfig)
    """Longest texts looked at."""
    characters: CharactersConfig | Off = Field(default_factory=CharactersConfig)
    """Lone surrogates, replacement and control characters."""
    think_block: ThinkBlockConfig | Off = Field(default_factory=ThinkBlockConfig)
    """One closed think block, or none at all."""
    answer: AnswerConfig | Off = Field(default_factory=AnswerConfig)
    """Something said behind the thought."""
    format: FormatConfig | Off = "off"
    """The judge's form checks; off, for texts without a think block do not pass them."""
    language: LanguageConfig | Off = Field(default_factory=LanguageConfig)
    """The language of the prompt."""
    repetition: RepetitionConfig | Off = Field(default_factory=RepetitionConfig)
    """Loops and circles."""
    readability: ReadabilityConfig | Off = Field(default_factory=ReadabilityConfig)
    """Whether a person could read it."""
    personal: PersonalConfig | Off = Field(default_factory=PersonalConfig)
    """Addresses, numbers and secrets of persons."""
    harm: HarmConfig | Off = Field(default_factory=HarmConfig)
    """Harmful open questions keep safe answers only."""


def content_filters(config: ContentConfig, harm_scores: Mapping[str, float] | None = None) -> list[Filter]:
    """The filters a config asks for, in the order they look. `harm_scores`: by trace id, what another judge says."""
    makers: tuple[tuple[object, Callable[[Any], Filter]], ...] = (
        (config.size, Size),
        (config.characters, Characters),
        (config.think_block, ThinkBlock),
        (config.answer, Answer),
        (config.format, Format),
        (config.language, Language),
        (config.repetition, Repetition),
        (config.readability, Readability),
        (config.personal, Personal),
        (config.harm, lambda table: Harm(table, harm_scores or {})),
    )
    return [make(table) for table, make in makers if table != "off"]
