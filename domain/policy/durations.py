"""ISO 8601 durations of fixed length; it must never accept months or years, which have none."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from typing import Final

_NUMBER: Final = r"(\d{1,9}(?:[.,]\d{1,9})?)"
_DURATION: Final = re.compile(
    rf"P(?=.)(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=.)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?", re.ASCII
)
_CALENDAR: Final = re.compile(r"P[^T]*[YM]", re.ASCII)


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> timedelta:
    """Weeks to seconds, with fractions (`P1DT12H`, `PT0.5S`); raises ValueError that says what to write."""
    match = _DURATION.fullmatch(text)
    if match is None:
        if _CALENDAR.match(text):
            raise ValueError("months and years have no fixed length; write days, e.g. P30D")
        raise ValueError("write an ISO 8601 duration, e.g. PT10S, PT1H, P2D")
    weeks, days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in match.groups())
    try:
        return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise ValueError("the duration is too long") from None


def format_duration(duration: timedelta) -> str:
    """The inverse of `parse_duration`, largest units first; raises ValueError below zero."""
    if duration < timedelta(0):
        raise ValueError("a duration is never negative")
    hours, rest = divmod(duration.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    second_text = f"{seconds}.{duration.microseconds:06d}".rstrip("0").rstrip(".")
    date = f"{duration.days}D" if duration.days else ""
    time = "".join(
        f"{amount}{unit}"
        for amount, unit in ((str(hours), "H"), (str(minutes), "M"), (second_text, "S"))
        if amount != "0"
    )
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"
