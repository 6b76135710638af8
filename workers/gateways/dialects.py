"""How the engine's REST API is spoken, version by version: the words of a question and the names in its answer. Nobody
else may know either; what both versions share is in `Dialect`, what they do not is a row of `OLD` and `NEW`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

# Which instances: those that run, those that were cancelled, or every one that the search shows.
Which = Literal["RUNNING", "CANCELLED", "ANY"]
# Where the next page of a search begins, in the words of the engine that gave it.
Cursor = Mapping[str, Any]
Row = Mapping[str, Any]

TOPOLOGY: Final = "/v2/topology"

_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_ROOT: Final = re.compile(r"PI_(\d+)")


@dataclass(frozen=True, slots=True)
class SeenTask:
    """A user task as the search shows it. begun: the key of its element instance · assignee: None, nobody was"""

    begun: int
    is_completed: bool
    assignee: str | None


@dataclass(frozen=True, slots=True)
class SeenIncident:
    """An incident as the search shows it. Keys as text: bare ones come again on another engine.

    state: PENDING (new, not yet linked to its place), ACTIVE or RESOLVED; one that was resolved may be shown as ACTIVE
    for some seconds · message: what the job failed with · job_key: None where no job is behind it · kind: the engine's
    word for the failure · root: the instance that no other one called, where the search knows it
    """

    key: str
    state: str
    created_at: datetime
    process: str
    instance_key: str
    element: str
    job_key: str | None
    message: str
    kind: str = ""
    root: int = 0


@dataclass(frozen=True, slots=True)
class SeenInstance:
    """An instance as the search shows it. is_root: no other one called it"""

    key: int
    process: str
    started_at: datetime
    ended_at: datetime | None
    is_root: bool


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the search: where it is asked, and its body."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version's way to ask and to answer.

    write_key: keys are numbers in one version and text in the other · which: the filter for each kind of instances ·
    names: ours → the field of an answer ·
    read_cursor: the page of an answer → the words by which the next one is asked for · shouts: DESC, not desc
    """

    version: str
    write_key: Callable[[int], int | str]
    which: Mapping[Which, Mapping[str, Any]]
    names: Mapping[str, str]
    read_cursor: Callable[[Row], Cursor]
    shouts: bool

    def order(self, *, newest: bool) -> str:
        told = "DESC" if newest else "ASC"
        return told if self.shouts else told.lower()

    # -- asking ------------------------------------------------------------------------------------------

    def ask_user_tasks(self, instance: int) -> Question:
        """Every user task of an instance."""
        return Question("/v2/user-tasks/search", {"filter": {"processInstanceKey": self.write_key(instance)}})

    def ask_incidents(self, state: str, limit: int) -> Question:
        """The incidents of one state, newest first: 8.6 filters by one exact value, and by no range of times."""
        sort = [{"field": "creationTime", "order": self.order(newest=True)}]
        return Question("/v2/incidents/search", {"filter": {"state": state}, "sort": sort, "page": {"limit": limit}})

    def ask_instances(
        self, which: Which, field: str, limit: int, cursor: Cursor | None = None, *, newest: bool = True
    ) -> Question:
        """Instances by the time that `field` holds, newest or oldest first."""
        sort = [{"field": field, "order": self.order(newest=newest)}]
        page = {"limit": limit, **(cursor or {})}
        return Question("/v2/process-instances/search", {"filter": self.which[which], "sort": sort, "page": page})

    def ask_variables(self, instance: int, limit: int) -> Question:
        """The variables of an instance, those of its parts among them."""
        wanted = {"processInstanceKey": self.write_key(instance)}
        return Question("/v2/variables/search", {"filter": wanted, "page": {"limit": limit}})

    # -- reading -----------------------------------------------------------------------------------------

    def read_user_task(self, row: Row) -> SeenTask:
        is_completed = row.get("state") == "COMPLETED"
        return SeenTask(_key(row, "elementInstanceKey"), is_completed, row.get("assignee") or None)

    def read_incident(self, row: Row) -> SeenIncident:
        job_key = _key(row, "jobKey")
        return SeenIncident(
            key=str(_key(row, self.names["incident"])),
            state=str(row["state"]),
            created_at=datetime.fromisoformat(str(row["creationTime"])),
            process=str(row["processDefinitionId"]),
            instance_key=str(_key(row, "processInstanceKey")),
            element=str(row.get(self.names["element"]) or ""),
            job_key=str(job_key) if job_key else None,
            message=str(row.get("errorMessage") or ""),
            kind=str(row.get("errorType") or ""),
            root=_find_root(row),
        )

    def read_instance(self, row: Row) -> SeenInstance:
        ended = row.get("endDate")
        return SeenInstance(
            key=_key(row, self.names["instance"]),
            process=str(row[self.names["process"]]),
            started_at=datetime.fromisoformat(str(row["startDate"])),
            ended_at=datetime.fromisoformat(str(ended)) if ended else None,
            is_root=not _key(row, self.names["parent"]),
        )


OLD: Final = Dialect(
    version="8.6",
    write_key=int,
    # It shows no instance unless it is told which states.
    which={
        "RUNNING": {"running": True, "active": True, "incidents": True},
        "CANCELLED": {"finished": True, "canceled": True},
        "ANY": {
            "running": True, "active": True, "incidents": True, "finished": True, "canceled": True, "completed": True,
        },
    },
    names={
        "incident": "key", "element": "flowNodeId", "instance": "key",
        "process": "bpmnProcessId", "parent": "parentKey",
    },
    read_cursor=lambda page: {"searchAfter": page.get("lastSortValues")},
    shouts=False,
)  # fmt: skip

NEW: Final = Dialect(
    version="8.8",
    write_key=str,
    which={"RUNNING": {"state": "ACTIVE"}, "CANCELLED": {"state": "TERMINATED"}, "ANY": {}},
    names={
        "incident": "incidentKey", "element": "elementId", "instance": "processInstanceKey",
        "process": "processDefinitionId", "parent": "parentProcessInstanceKey",
    },
    read_cursor=lambda page: {"after": page.get("endCursor")},
    shouts=True,
)  # fmt: skip


def choose_dialect(version: str) -> Dialect:
    """That of an engine whose gateway says that it is of this version; the newest known one for those to come."""
    told = _VERSION.match(version)
    return NEW if told and (int(told[1]), int(told[2])) >= (8, 8) else OLD


def read_texts(rows: Sequence[Row]) -> dict[str, str]:
    """Those of the variables {name, value as JSON} that are texts, as ids are. A long one is cut off in the middle, and
    is none: whoever may put variables into the engine must not be able to end a sweep with one."""
    found: dict[str, str] = {}
    for row in rows:
        try:
            value = json.loads(row["value"])
        except ValueError:
            continue
        if isinstance(value, str):
            found[str(row["name"])] = value
    return found


def _find_root(row: Row) -> int:
    """Newer engines say it; 8.6 shows the way down from it; one that does neither shows the instance itself."""
    way = _ROOT.match(str(row.get("treePath") or ""))
    return _key(row, "rootProcessInstanceKey") or (int(way[1]) if way else _key(row, "processInstanceKey"))


def _key(row: Row, name: str) -> int:
    return int(row.get(name) or 0)
