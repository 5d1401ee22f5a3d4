"""Prices: what a teacher's tokens or GPU hours cost, as data somebody read somewhere on some day.

A table is a small TOML file: one currency, and for each sampler's name its prices with date and
source. `distill/prices` ships two: `published`, from public pages on the day given, and `example`,
which is invented and says so. Nothing is looked up and nothing is current by itself.
"""

import datetime
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError, model_validator

from distill.errors import UserError, did_you_mean
from distill.records import Record, reason

SHIPPED = Path(__file__).parent.parent / "prices"
MILLION = 1e6


class Price(Record):
    """What one teacher costs."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompt: float | None = Field(default=None, ge=0.0)
    """Of a million prompt tokens."""
    cached: float | None = Field(default=None, ge=0.0)
    """Of a million prompt tokens a server did not read again; without it, as any prompt token."""
    completion: float | None = Field(default=None, ge=0.0)
    """Of a million completion tokens."""
    gpu_hour: float | None = Field(default=None, ge=0.0)
    """Of one GPU for an hour, for a teacher on GPUs of one's own; needs `gpus` in the budget."""
    date: datetime.date
    """When the price was read."""
    source: str = Field(min_length=1)
    """Where."""

    @model_validator(mode="after")
    def _says_what_is_paid_for(self) -> "Price":
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion: give both")
        if self.prompt is None and self.gpu_hour is None:
            raise ValueError("nothing is priced: give prompt and completion, or gpu_hour")
        if self.cached is not None and self.prompt is None:
            raise ValueError("cached: needs prompt and completion")
        return self

    def of_tokens(self, prompt: float, cached: float, completion: float) -> float:
        """Cost of so many tokens, `cached` being among those of `prompt`; 0 where only GPU hours are priced."""
        if self.prompt is None or self.completion is None:
            return 0.0
        less = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * less + completion * self.completion) / MILLION


class OwnPrice(Price):
    """A price in a recipe, with its currency."""

    currency: str = Field(min_length=1)
    """`USD`, say."""


class PriceTable(Record):
    """Prices by the sampler's name, in one currency."""

    currency: str = Field(min_length=1)
    models: dict[str, Price] = Field(min_length=1)


def read_prices(name: str) -> PriceTable:
    """The shipped table of that name, or a `.toml` file. Raises UserError naming file, key and what was expected."""
    path = Path(name) if name.endswith(".toml") or "/" in name else SHIPPED / f"{name}.toml"
    if not path.is_file():
        known = sorted(found.stem for found in SHIPPED.glob("*.toml"))
        raise UserError(
            f"prices {name!r}: no such table{did_you_mean(name, known)}; expected a path ending in .toml, or one of "
            f"{', '.join(known)}"
        )
    try:
        return PriceTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise UserError(f"{path}: {reason(error)}; docs/harvest.md shows a price table") from error
    except ValueError as error:  # TOML and Unicode errors are ValueErrors
        raise UserError(f"{path}: not TOML ({error})") from error


@dataclass(frozen=True, slots=True)
class Prices:
    """What a budget's prices come to: a table, or one price for whoever speaks."""

    currency: str
    table: PriceTable | None
    own: Price | None
    name: str

    def of(self, sampler: str) -> Price:
        """The price of a sampler by its name. Raises UserError where the table has none."""
        if self.own is not None:
            return self.own
        assert self.table is not None, "one of the two"
        if sampler not in self.table.models:
            known = ", ".join(self.table.models)
            raise UserError(
                f"prices {self.name!r}: no price for {sampler!r}{did_you_mean(sampler, self.table.models)}; "
                f"there are {known}"
            )
        return self.table.models[sampler]


def find_prices(prices: str | None, price: OwnPrice | None) -> Prices | None:
    """The prices a budget names, or states itself; None where it does neither."""
    if prices is not None:
        table = read_prices(prices)
        return Prices(table.currency, table, None, prices)
    return None if price is None else Prices(price.currency, None, price, "")
