"""The vocabulary says things the way people read them."""

from __future__ import annotations

import pytest

from domain.values import Money


@pytest.mark.parametrize(
    ("minor", "currency", "read"),
    [
        (2505, "EUR", "25.05 EUR"),
        (0, "EUR", "0.00 EUR"),
        (-5, "EUR", "-0.05 EUR"),
        (2500, "JPY", "2500 JPY"),
        (-2500, "JPY", "-2500 JPY"),
        (2500, "KWD", "2.500 KWD"),
        (2500, "CLF", "0.2500 CLF"),
    ],
)
def test_money_is_read_with_the_decimals_of_its_currency(minor: int, currency: str, read: str) -> None:
    assert str(Money(minor, currency)) == read
