"""Lists: every entity once, page by page, filtered, whatever else lies in the store."""

from __future__ import annotations

from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import InvalidAddress
from ray_agents.requests import ListQuery, SpawnRequest
from ray_agents.views import Status

NAMES = [f"/{t}/{i}" for t in ("a", "a-b", "a0", "b") for i in ("x", "y", "z", "A", "9")]


async def handler(ctx: Any, wake: Any) -> None: ...


@pytest.fixture(autouse=True)
async def populated(runtime: LocalRuntime) -> None:
    registry = Registry()
    for type_name in ("a", "a-b", "a0", "b"):
        registry.define(type_name, handler=handler)
    await runtime.register(registry)
    for number, name in enumerate(NAMES):
        tags = {"odd": str(number % 2), **({"first": "yes"} if not number else {})}
        request = SpawnRequest(tags=tags, parent="/b/x" if number > 15 else None)
        await runtime.spawn(Address.parse(name), request)


async def listed(runtime: LocalRuntime, **query: Any) -> list[str]:
    """All pages of a list."""
    found, cursor = list[str](), None
    while True:
        page = await runtime.list(ListQuery(cursor=cursor, **query))
        assert len(page.items) <= query.get("limit", 50)
        found += [view.address for view in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 19, 20, 21])
async def test_pages_hold_every_entity_once(runtime: LocalRuntime, limit: int) -> None:
    found = await listed(runtime, limit=limit)
    assert len(found) == len(NAMES)
    assert set(found) == set(NAMES)


async def test_filters_choose_and_page_together(runtime: LocalRuntime) -> None:
    assert len(await listed(runtime, type="a-b", limit=2)) == 5
    assert len(await listed(runtime, tag="odd=1", limit=3)) == 10
    assert await listed(runtime, tag="first") == ["/a/x"]
    assert len(await listed(runtime, parent="/b/x", limit=1)) == 4
    assert await listed(runtime, type="unheard-of") == []


async def test_status_is_as_it_is_now(runtime: LocalRuntime) -> None:
    await runtime.kill(Address.parse("/a/x"))
    assert await listed(runtime, status=Status.STOPPED) == ["/a/x"]
    assert len(await listed(runtime, status=Status.IDLE)) == 19


async def test_what_is_no_entity_is_not_listed(runtime: LocalRuntime) -> None:
    for stray in ("entities/.nfs0001/x/y", "entities/a/00/.DS_Store", "entities/README"):
        runtime.blobs.create(stray, b"")
    assert set(await listed(runtime)) == set(NAMES)


@pytest.mark.parametrize("query", [{"type": "../hosts"}, {"cursor": "nowhere"}])
async def test_a_query_cannot_leave_the_catalog(runtime: LocalRuntime, query: Any) -> None:
    with pytest.raises(InvalidAddress):
        await runtime.list(ListQuery(**query))
