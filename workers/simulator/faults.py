"""The script of what goes wrong, for which order, type or system, and how often; it must never act by itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Kind = Literal[
    "answer",
    "delay",
    "refuse",
    "lose-answer",
    "answer-twice",
    "accept",
    "accept-silent",
    "error-after",
    "error-before",
    "hang",
]


class Fault(BaseModel):
    """One line of the script; what is not named matches everything, `times` not given means always.

    answer: as usual, and tell `output` (another price, say) · delay: wait `delayMs`, then as usual
    refuse: NO_EFFECT, for the reason in `words`
    lose-answer: do it, then break the connection · answer-twice: do it, answer, and report it by callbacks as well
    accept: promise, do it after `callbackAfterMs` and call back · accept-silent: promise and say no more
    error-after / error-before: HTTP 500, and `words` in its body, with and without having done it
    hang: nothing, neither done nor answered
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    fault: Kind
    tenant_id: Annotated[str | None, Field(alias="tenantId")] = None
    order_id: Annotated[str | None, Field(alias="orderId")] = None
    task_type: Annotated[str | None, Field(alias="taskType")] = None
    system: str | None = None
    times: Annotated[int | None, Field(ge=1)] = None
    delay_ms: Annotated[int, Field(alias="delayMs", ge=0)] = 1_000
    output: dict[str, JsonValue] | None = None
    words: str | None = None
    callback_after_ms: Annotated[int, Field(alias="callbackAfterMs", ge=0)] = 500

    def fits(self, tenant_id: str, order_id: str, task_type: str, system: str) -> bool:
        return (
            self.tenant_id in {None, tenant_id}
            and self.order_id in {None, order_id}
            and self.task_type in {None, task_type}
            and self.system in {None, system}
        )


class Script:
    """The faults in the order they were given; the first that fits is played."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def next(self, tenant_id: str, order_id: str, task_type: str, system: str) -> Fault | None:
        """The fault for this call; one that was given a number of times is used up by it."""
        for index, fault in enumerate(self._faults):
            if fault.fits(tenant_id, order_id, task_type, system):
                if fault.times == 1:
                    del self._faults[index]
                elif fault.times is not None:
                    self._faults[index] = fault.model_copy(update={"times": fault.times - 1})
                return fault
        return None

    def show(self) -> list[dict[str, object]]:
        return [fault.model_dump(by_alias=True, exclude_none=True) for fault in self._faults]
