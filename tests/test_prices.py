"""Prices are data with a date and a source, and a table that is none is named."""

from pathlib import Path

import pytest

from distill.errors import UserError
from distill.harvest.prices import Price, read_prices


def test_cached_tokens_cost_what_the_table_says() -> None:
    price = Price.model_validate({"prompt": 10, "cached": 1, "completion": 100, "date": "2025-01-01", "source": "x"})
    assert price.of_tokens(1_000_000, 400_000, 1_000_000) == pytest.approx(6 + 0.4 + 100)
    assert price.model_copy(update={"cached": None}).of_tokens(1_000_000, 400_000, 0) == pytest.approx(10)


def test_shipped_tables_say_when_and_where_or_that_they_are_invented() -> None:
    published, example = read_prices("published"), read_prices("example")
    assert all(price.source.startswith("https://") for price in published.models.values())
    assert example.currency == "XXX"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("currency = ", "not TOML", id="not TOML"),
        pytest.param('currency = "USD"', "models: Field required", id="no models"),
        pytest.param(
            'currency = "USD"\n[models.a]\nprompt = 1\ndate = 2025-01-01\nsource = "x"',
            "models.a: .*prompt and completion: give both",
            id="half a price",
        ),
        pytest.param(
            'currency = "USD"\n[models.a]\nprompt = 1\ncompletion = 1\nsource = "x"', "models.a.date", id="of no day"
        ),
        pytest.param(
            'currency = "USD"\n[models.a]\ngpu_hour = -1\ndate = 2025-01-01\nsource = "x"', "gpu_hour", id="negative"
        ),
    ],
)
def test_a_price_table_that_is_none_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}: .*{complaint}"):
        read_prices(str(path))
