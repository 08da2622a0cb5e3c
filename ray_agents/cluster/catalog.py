"""Lists of entities, from the folders of the store; status is computed as each is read.

Pages go by address, in order; a cursor is the last address of the page before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ray_agents.address import Address, check_type
from ray_agents.cluster.folders import ENTITIES
from ray_agents.errors import InvalidAddress, UnknownEntity
from ray_agents.log.owner import LogIO
from ray_agents.ports import Blobs
from ray_agents.requests import PAGE_ITEMS_MAX, ListQuery
from ray_agents.views import EntityView, Page

READ_AT_ONCE = 32


class Catalog:
    """Lists the entities of a store."""

    def __init__(
        self, blobs: Blobs, *, io: LogIO, describe: Callable[[Address], Awaitable[EntityView]]
    ) -> None:
        self._blobs = blobs
        self._io = io
        self._describe = describe

    async def page(self, query: ListQuery) -> Page:
        """One page of entities that match.

        Raises:
            InvalidAddress: the type or the cursor is none.
        """
        addresses = await self._io.run(self._addresses, query)
        found: list[EntityView] = []
        for start in range(0, len(addresses), READ_AT_ONCE):
            batch = addresses[start : start + READ_AT_ONCE]
            views = await asyncio.gather(*(self._view(address) for address in batch))
            found += [view for view in views if view is not None and matches(view, query)]
            if len(found) > query.limit:
                break
        items = tuple(found[: query.limit])
        more = len(found) > query.limit
        return Page(items=items, cursor=items[-1].address if more else None)

    async def with_descendants(self, address: Address) -> list[Address]:
        """An entity, its children, theirs, and so on, parents first; each is read for its parent.

        Raises:
            UnknownEntity: nobody ever lived at ``address``.
        """
        await self._describe(address)
        found, cursor = [address], None
        children: dict[str, list[Address]] = {}
        while True:
            page = await self.page(ListQuery(cursor=cursor, limit=PAGE_ITEMS_MAX))
            for view in page.items:
                if view.parent is not None:
                    children.setdefault(view.parent, []).append(Address.parse(view.address))
            if page.cursor is None:
                break
            cursor = page.cursor
        for each in found:  # it grows meanwhile
            found += [child for child in children.pop(str(each), ()) if child not in found]
        return found

    async def _view(self, address: Address) -> EntityView | None:
        try:
            return await self._describe(address)
        except UnknownEntity:
            return None  # claimed by a spawn that never came to its first append

    def _addresses(self, query: ListQuery) -> list[Address]:
        found = all_addresses(self._blobs, type_name=check_type(query.type) if query.type else None)
        after = Address.parse(query.cursor) if query.cursor else None
        return sorted(address for address in found if after is None or address > after)


def all_addresses(blobs: Blobs, *, type_name: str | None = None) -> list[Address]:
    """The entities that have a log, of one type or of all, in no order. It blocks."""
    return [
        address
        for each in ([type_name] if type_name else blobs.names(ENTITIES))
        for shard in blobs.names(f"{ENTITIES}/{each}")
        for entity_id in blobs.names(f"{ENTITIES}/{each}/{shard}")
        if (address := _address(each, entity_id)) is not None
    ]


def _address(type_name: str, entity_id: str) -> Address | None:
    try:
        return Address.of(type_name, entity_id)
    except InvalidAddress:
        return None  # a folder that some program left there; no entity was ever made in it


def matches(view: EntityView, query: ListQuery) -> bool:
    """Whether an entity belongs on the list."""
    if query.status is not None and view.status is not query.status:
        return False
    if query.parent is not None and view.parent != query.parent:
        return False
    if query.tag is None:
        return True
    key, separator, value = query.tag.partition("=")
    return key in view.tags and (not separator or view.tags[key] == value)
