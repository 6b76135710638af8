"""Two versions of a plan beside each other: which tasks stand where, and what is drawn."""

from __future__ import annotations

import re
from typing import Any

from workers.api.ui.versions import MOST, draw_versions


def a_task(task_id: str, *depends_on: str, version: int = 1, by: str | None = None) -> dict[str, Any]:
    return {
        "taskId": task_id,
        "step": f"step-{task_id}",
        "type": f"type-{task_id}",
        "state": "SUPERSEDED" if by else "PENDING",
        "planVersion": version,
        "dependsOn": list(depends_on),
        **({"supersededBy": by} if by else {}),
    }


def an_amendment(version: int | None = None, **strategies: str) -> dict[str, Any]:
    fates = [{"taskId": one, "state": "COMPLETED", "strategy": fate} for one, fate in strategies.items()]
    return {
        "assessment": {"planVersion": 1, "strategy": fates},
        **({"newPlanVersion": version} if version else {}),
    }


def drawn(tasks: list[dict[str, Any]], amendment: dict[str, Any], *others: dict[str, Any]) -> list[str]:
    """Every text of the picture, from top to bottom."""
    picture = draw_versions(tasks, [amendment, *others], amendment)
    assert picture is not None
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def arrows(tasks: list[dict[str, Any]], amendment: dict[str, Any]) -> int:
    """Arrows of dependencies, on both sides together."""
    picture = draw_versions(tasks, [amendment], amendment)
    assert picture is not None
    return picture.count('stroke-width="1.3"')


def test_before_it_is_in_the_order_the_other_side_is_what_would_become() -> None:
    texts = drawn([a_task("a"), a_task("b", "a"), a_task("c", "b")], an_amendment(a="REDO", c="REMOVE"))
    assert texts[:2] == ["Plan 1", "Plan 2, if it is agreed"]
    assert texts.count("type a") == texts.count("type b") == 2
    assert texts.count("type c") == 1
    assert [text for text in texts if text in {"done once more", "stays", "is no longer needed"}][:3] == [
        "done once more",
        "stays",
        "is no longer needed",
    ]
    assert {"step-a · completed", "step-a · pending"} <= set(texts)


def test_afterwards_each_side_has_the_arrows_that_it_had() -> None:
    """What stays behind a replaced task names only the new one now; the old plan shows it behind the old one."""
    tasks = [a_task("a", by="a2"), a_task("b", "a2"), a_task("a2", version=2), a_task("n", "b", version=2)]
    amendment = an_amendment(2, a="UNDO_THEN_DO")
    texts = drawn(tasks, amendment)
    assert texts[:2] == ["Plan 1", "Plan 2"]
    assert arrows(tasks, amendment) == 3  # a → b; a2 → b → n
    assert texts.index("is new") > texts.index("stays")
    assert texts.count("type n") == 1


def test_an_earlier_version_shows_what_a_later_one_took_away() -> None:
    tasks = [a_task("a"), a_task("b"), a_task("c", version=3)]
    first, second = an_amendment(2, a="NEW_VALUE"), an_amendment(3, b="UNDO")
    assert drawn(tasks, first, second).count("type b") == 2
    assert drawn(tasks, second, first).count("type b") == 1
    assert "type c" not in drawn(tasks, first, second)


def test_of_a_large_plan_only_what_is_touched_and_next_to_it_is_drawn() -> None:
    tasks = [a_task("t0")] + [a_task(f"t{at}", f"t{at - 1}") for at in range(1, MOST + 40)]
    texts = drawn(tasks, an_amendment(t50="REDO"))
    assert [text for text in texts if text.startswith("type ")] == ["type t49"] * 2 + ["type t50"] * 2 + [
        "type t51"
    ] * 2
    assert f"{MOST + 40 - 3} tasks that nothing touches are not drawn" in texts


def test_there_is_no_picture_where_no_work_is_touched() -> None:
    assert draw_versions([a_task("a")], [], an_amendment()) is None
    assert draw_versions([a_task("a")], [], {"assessment": None}) is None


def test_what_a_policy_names_stays_text() -> None:
    task = a_task("a") | {"type": "<b>&"}
    assert "&lt;b&gt;&amp;" in drawn([task], an_amendment(a="KEEP"))
