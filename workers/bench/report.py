"""The measurements as a page: a table and a picture in `docs/performance.md`, made from the JSON records only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

Record = Mapping[str, Any]

RECORDS: Final = Path("docs/performance.json")
PAGE: Final = Path("docs/performance.md")
PICTURE: Final = Path("docs/pictures/performance.svg")

_BLOCK: Final = re.compile(r"(<!-- measured: [^\n]*-->\n).*?(<!-- /measured -->)", re.DOTALL)
_WORDS: Final = {"goal": "goal reached", "must": "must reached", "missed": "**missed**", "broken": "**broken**"}


def merge_records(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """The newest record per bench, in the order in which benches were first recorded."""
    merged = {str(record["bench"]): record for record in (*old, *new)}
    return list(merged.values())


def read_records(path: Path) -> list[Record]:
    """Raises FileNotFoundError, or json.JSONDecodeError."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return list(found)


def publish(root: Path, outcomes: Sequence[Record]) -> None:
    """Keep the records, and draw page and picture from all that are kept. The page's prose stays."""
    records = root / RECORDS
    kept = merge_records(read_records(records) if records.exists() else [], outcomes)
    records.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for path, text in draw_pages(root, kept).items():
        path.write_text(text, encoding="utf-8")


def draw_pages(root: Path, records: Sequence[Record]) -> dict[Path, str]:
    """Path → text of what the records say."""
    page = (root / PAGE).read_text(encoding="utf-8")
    table = draw_table(records).replace("\\", r"\\")
    return {
        root / PAGE: _BLOCK.sub(rf"\g<1>\n{table}\n\g<2>", page),
        root / PICTURE: draw_picture(records),
    }


def draw_table(records: Sequence[Record]) -> str:
    """One row per case of every bench."""
    lines = [
        "| bench | what is compared | case | median (range) | must · goal | verdict | ours: p50 · p99 · max | errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        for place, case in enumerate(record["cases"]):
            low, high = case["range"]
            first = place == 0
            sign = "≥" if record["better"] == "more" else "≤"
            errors = sum(case["numerator"]["errors"].values()) + sum(case["denominator"]["errors"].values())
            cells = [
                f"`{record['bench']}`" if first else "",
                record["ratio"] if first else "",
                case["name"],
                f"{case['median']:.2f} ({low:.2f} to {high:.2f})",
                f"{sign} {record['must']:g} · {record['goal']:g}" if first else "",
                _WORDS[record["verdict"]] if first else "",
                _times(case["numerator"]),
                str(errors),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_facts(records)]
    return "\n".join(lines)


def _times(side: Record) -> str:
    if "p50ms" not in side:
        return ""
    return " · ".join(f"{side[name]:,.1f} ms".replace(",", " ") for name in ("p50ms", "p99ms", "maxms"))


def _facts(records: Sequence[Record]) -> list[str]:
    """Where and when; one line per machine that the records name."""
    machines: dict[str, list[Record]] = {}
    for record in records:
        machine = record["machine"]
        name = f"{machine['cpus']} × {machine['cpu']}, {machine['memoryGiB']} GiB, Linux {machine['kernel']}"
        machines.setdefault(name, []).append(record)
    lines = []
    for name, measured in machines.items():
        times = sorted(record["at"] for record in measured)
        loads = [record["machine"]["loadAverage"][0] for record in measured]
        versions = measured[-1]["versions"]
        database: Record = next((record["database"] for record in measured if record["database"]), {})
        lines.append(
            f"Measured {times[0][:16].replace('T', ' ')} to {times[-1][:16].replace('T', ' ')} UTC on {name}; "
            f"load average at the ends {min(loads):g} to {max(loads):g}. Python {versions['python']}, "
            f"asyncpg {versions['asyncpg']}, uvicorn {versions['uvicorn']}, pyzeebe {versions['pyzeebe']}, "
            f"aiokafka {versions['aiokafka']}; PostgreSQL {database.get('version', '?')} with "
            f"fsync={database.get('fsync', '?')}, synchronous_commit={database.get('synchronous_commit', '?')}. "
            f"Repetitions per case: {', '.join(sorted({str(record['repetitions']) for record in measured}))}."
        )
    return lines


# -- the picture -----------------------------------------------------------------------------------------------

_LEFT, _WIDTH, _ROW, _TOP = 210, 430, 26, 46
_INK, _GOOD, _FAIR, _BAD, _LINE = "#24292f", "#2da44e", "#bf8700", "#cf222e", "#8c959f"
_COLOURS: Final = {"goal": _GOOD, "must": _FAIR, "missed": _BAD}


def draw_picture(records: Sequence[Record]) -> str:
    """Each case as a share of what its bench must reach: 1 is the bound, further right is better."""
    rows = [(record, case) for record in records for case in record["cases"]]
    shares = [_share(record, case["median"]) for record, case in rows]
    longest = max([2.0, *(min(share, 4.0) for share in shares)])
    height = _TOP + _ROW * len(rows) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>Each bench as a share of what it must reach</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" fill="{_INK}">share of what must be reached (thin line: the range)</text>',
    ]
    one = _LEFT + _WIDTH / longest
    for place, ((record, case), share) in enumerate(zip(rows, shares, strict=True)):
        y = _TOP + place * _ROW
        low, high = sorted(_share(record, value) for value in case["range"])
        colour = _COLOURS[_judge(record, case["median"])]
        label = f"{record['bench']} · {case['name']}"
        left, right = (_LEFT + _WIDTH * min(value, longest) / longest for value in (low, high))
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end" fill="{_INK}">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{y + 3}" width="{_WIDTH * min(share, longest) / longest:.1f}" height="13" '
            f'fill="{colour}" fill-opacity="0.75"/>',
            f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y + 9.5}" y2="{y + 9.5}" stroke="{_INK}"/>',
            f'<text x="{_LEFT + _WIDTH + 8}" y="{y + 13}" fill="{_INK}">{case["median"]:.2f}</text>',
        ]
    bottom = _TOP + _ROW * len(rows)
    parts.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{_TOP - 6}" y2="{bottom}" stroke="{_LINE}" stroke-dasharray="4 3"/>'
    )
    parts.append(f'<text x="{one:.1f}" y="{_TOP - 10}" text-anchor="middle" fill="{_LINE}">must</text>')
    return "\n".join([*parts, "</svg>", ""])


def _share(record: Record, ratio: float) -> float:
    must = float(record["must"])
    return ratio / must if record["better"] == "more" else must / max(ratio, 1e-9)


def _judge(record: Record, ratio: float) -> str:
    more = record["better"] == "more"
    for name in ("goal", "must"):
        if ratio >= record[name] if more else ratio <= record[name]:
            return name
    return "missed"
