"""Lists of entities, from the folders of the store; status is computed as each is read.

Pages go by address, in order; a cursor is the last address of the page before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from ray_agents.address import Address
from ray_agents.cluster.folders import ENTITIES
from ray_agents.errors import InvalidAddress, UnknownEntity
from ray_agents.log.owner import LogIO
from ray_agents.ports import Blobs
from ray_agents.requests import ListQuery
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
        """One page of entities that match."""
        addresses = await self._io.run(lambda: list(self._addresses(query)))
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

    async def _view(self, address: Address) -> EntityView | None:
        try:
            return await self._describe(address)
        except UnknownEntity:
            return None  # claimed by a spawn that never came to its first append

    def _addresses(self, query: ListQuery) -> Iterator[Address]:
        types = [query.type] if query.type else self._blobs.names(ENTITIES)
        for type_name in types:
            folder = f"{ENTITIES}/{type_name}"
            ids = [
                entity_id
                for shard in self._blobs.names(folder)
                for entity_id in self._blobs.names(f"{folder}/{shard}")
            ]
            for entity_id in sorted(ids):
                address = _address(type_name, entity_id)
                if query.cursor is None or str(address) > query.cursor:
                    yield address


def _address(type_name: str, entity_id: str) -> Address:
    try:
        return Address.of(type_name, entity_id)
    except InvalidAddress as error:
        message = f"the store holds a folder that is no entity: {type_name!r}/{entity_id!r}"
        raise InvalidAddress(message) from error


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
