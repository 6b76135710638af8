"""What every room shares: money as people read it, ids that follow from a command, rows that are altered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

import pytest

from domain.values import Money, alter, derive_id


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


@dataclass(frozen=True)
class Row:
    """Two fields, one of them with a default."""

    name: str
    count: int = 1


def test_an_altered_row_is_a_replaced_one_and_the_old_one_stands() -> None:
    row = Row("a")
    altered = alter(row, count=2)
    assert altered == replace(row, count=2)
    assert hash(altered) == hash(replace(row, count=2))
    assert row == Row("a", 1)


def test_a_field_that_a_row_does_not_have_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="Row has no"):
        alter(Row("a"), cuont=2)


@pytest.mark.parametrize("parts", [("request",), ("event", 17), ("größe", uuid.UUID(int=5)), ()])
def test_a_derived_id_is_a_name_based_one(parts: tuple[object, ...]) -> None:
    namespace = uuid.UUID("0bec0000-0000-4000-8000-000000000001")
    assert derive_id(namespace, *parts) == uuid.uuid5(namespace, "/".join(map(str, parts)))
