"""The outside world's own record: what really happened there, on disk before anybody is told. It must never be shared
with the product's ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final, Literal

import orjson

State = Literal["CONFIRMED", "NO_EFFECT", "ACCEPTED"]

# What a line says: a call that arrived, and the three things that a system can do about an effect.
_DID: Final = {"CONFIRMED": "DONE", "NO_EFFECT": "REFUSED", "ACCEPTED": "PROMISED"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect as the outside system knows it."""

    effect_id: str
    system: str
    task_type: str
    order_id: str
    tenant_id: str
    state: State
    external_reference: str | None
    output: Any
    reason: str | None = None

    def answer(self) -> dict[str, Any]:
        """What the system says when it is asked."""
        said: dict[str, Any] = {"state": self.state}
        if self.external_reference is not None:
            said["externalReference"] = self.external_reference
        if self.output is not None:
            said["output"] = self.output
        if self.reason is not None:
            said["reason"] = self.reason
        return said


class Book:
    """An append-only JSONL file and what follows from it; reopened, it knows every effect again.

    Lines: {at, event: CALLED | DONE | REFUSED | PROMISED, effectId, system, taskType, orderId, …}. An effect has at
    most one DONE line: that is the proof that it happened once.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._entries: dict[str, Entry] = {}
        if path.exists():
            for line in path.read_bytes().splitlines():
                self._take(orjson.loads(line))
        self._file: BufferedWriter = path.open("ab")

    def find(self, effect_id: str) -> Entry | None:
        return self._entries.get(effect_id)

    def lines(self, order_id: str | None) -> list[dict[str, Any]]:
        """The lines, oldest first; those of one order, or all."""
        lines = map(orjson.loads, self._path.read_bytes().splitlines())
        return [line for line in lines if order_id is None or line["orderId"] == order_id]

    def note_call(self, body: dict[str, Any], effect_id: str) -> None:
        """A call arrived; it says what it was asked with, and changes nothing."""
        self._write(
            {
                "event": "CALLED",
                "effectId": effect_id,
                "system": str(body.get("system")),
                "taskType": str(body.get("taskType")),
                "operation": body.get("operation"),
                "orderId": str(body.get("orderId")),
                "taskId": body.get("taskId"),
                "attempt": body.get("attempt"),
                "input": body.get("input"),
                "reverses": body.get("reverses"),
            }
        )

    def write(self, entry: Entry) -> Entry:
        """Enter what an effect has become."""
        self._write(
            {
                "event": _DID[entry.state],
                "effectId": entry.effect_id,
                "system": entry.system,
                "taskType": entry.task_type,
                "orderId": entry.order_id,
                "tenantId": entry.tenant_id,
                "externalReference": entry.external_reference,
                "output": entry.output,
                "reason": entry.reason,
            }
        )
        return self._entries[entry.effect_id]

    def settle(self, effect_id: str, state: State, reason: str | None = None) -> Entry:
        """Turn a promise into what became of it; one that was settled before stays as it was."""
        entry = self._entries[effect_id]
        if entry.state != "ACCEPTED":
            return entry
        return self.write(replace(entry, state=state, reason=reason))

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        line = {"at": datetime.now(UTC).isoformat(), **line}
        self._file.write(orjson.dumps(line) + b"\n")
        # To the operating system: it survives the death of this process, which is what experiments kill.
        self._file.flush()
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        states: dict[str, State] = {"DONE": "CONFIRMED", "REFUSED": "NO_EFFECT", "PROMISED": "ACCEPTED"}
        if line["event"] in states:
            self._entries[line["effectId"]] = Entry(
                effect_id=line["effectId"],
                system=line["system"],
                task_type=line["taskType"],
                order_id=line["orderId"],
                tenant_id=line["tenantId"],
                state=states[line["event"]],
                external_reference=line["externalReference"],
                output=line["output"],
                reason=line["reason"],
            )
