"""Operate and Tasklist of the running stack, as people with a browser use them; tasks are found as Tasklist tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.browser.chromium import Page
from tests.flows.running import RunningStack, Tenant, eventually

# Two cores start a second Camunda beside everything else.
START_SECONDS = 420.0


@dataclass
class Consoles:
    """Both consoles of one stack; `passwords` by person."""

    operate: str
    tasklist: str
    passwords: Mapping[str, str]
    sessions: dict[str, httpx.Client] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: RunningStack) -> Consoles:
        """Of a running stack, once both are ready."""
        status = eventually(stack.status, lambda found: found["consolesReady"], "the consoles", START_SECONDS)
        passwords = json.loads((stack.folder / "people.json").read_text())
        return cls(status["operate"], status["tasklist"], {"demo": "demo", **passwords})

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()

    def log_in(self, page: Page, url: str, person: str) -> None:
        """Open a page of either console as this person."""
        page.open(url)
        page.wait_for_selector("input[name=username]")
        page.run(lambda tab: tab.fill("input[name=username]", person))
        page.run(lambda tab: tab.fill("input[name=password]", self.passwords[person]))
        page.run(lambda tab: tab.click("button[type=submit]"))

    def find_task(self, order_id: str, *, after: str = "0") -> str:
        """The key of the one open task of this order that is newer than the one given, once Tasklist shows it."""

        def look() -> list[str]:
            tasks = self._ask("/v1/tasks/search", {"state": "CREATED", "pageSize": 200})
            return [task["id"] for task in tasks if int(task["id"]) > int(after) and self._is_of(task["id"], order_id)]

        (key,) = eventually(look, lambda found: len(found) == 1, f"the task of {order_id}")
        return key

    def find_element(self, instance: int, element: str) -> int:
        """The key of the one element of an instance with this id, once Operate shows it."""
        wanted = {"filter": {"processInstanceKey": instance, "flowNodeId": element}}
        found = eventually(
            lambda: self._ask("/v1/flownode-instances/search", wanted)["items"],
            lambda rows: len(rows) == 1,
            f"{element} of {instance}",
        )
        return int(found[0]["key"])

    def show_flow(self, page: Page, key: str) -> None:
        """In Operate, the flow that a task stands in."""
        flow = self._ask_for(f"/v1/tasks/{key}")["processInstanceKey"]
        page.open(f"{self.operate}/processes/{flow}")

    def decide(self, page: Page, key: str, choice: str, comment: str, *, field: str = "Comment") -> None:
        """Take the open task, fill in its form and complete it."""
        page.open(f"{self.tasklist}/{key}")
        page.click("Assign to me")
        # The form can be read before it can be filled in: the task must be this person's first.
        page.run(lambda tab: tab.locator("input[type=radio]:not([readonly])").first.wait_for(state="attached"))
        page.run(lambda tab: tab.get_by_text(choice, exact=True).click())
        page.fill(field, comment)
        # The form takes a text in a moment after the last key, or when the field is left.
        page.run(lambda tab: tab.get_by_label(field, exact=True).blur())
        page.click("Complete Task")
        page.wait_for("Task completed")

    def _is_of(self, key: str, order_id: str) -> bool:
        variables = self._ask(f"/v1/tasks/{key}/variables/search", {})
        return any(order_id in str(variable["value"]) for variable in variables)

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._read(self._session().post(path, json=body))

    def _ask_for(self, path: str) -> Any:
        return self._read(self._session().get(path))

    def _read(self, answer: httpx.Response) -> Any:
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    def _session(self) -> httpx.Client:
        if "demo" not in self.sessions:
            session = httpx.Client(base_url=self.tasklist.removesuffix("/tasklist"), timeout=30, trust_env=False)
            told = session.post("/api/login", data={"username": "demo", "password": "demo"})
            assert told.status_code == httpx.codes.NO_CONTENT, told.text
            self.sessions["demo"] = session
        return self.sessions["demo"]


def give_say(tenant: Tenant, person: str, *roles: str) -> None:
    """Say what a person may decide in Tasklist for this tenant."""
    answer = tenant.person("ada", "admin").put(f"/api/v1/staff/{person}", json={"roles": list(roles)})
    assert answer.status_code == httpx.codes.OK, answer.text
