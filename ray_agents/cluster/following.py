"""What an owner tells those who follow its log: the next durable rows, or a message's outcome."""

from __future__ import annotations

import asyncio

from ray_agents.cluster.calls import Follow, Followed
from ray_agents.cluster.folders import address_of
from ray_agents.errors import OffsetGone
from ray_agents.events import Event
from ray_agents.log.owner import LogOwner
from ray_agents.replies import SETTLING_TYPES, settles


async def followed(owner: LogOwner, call: Follow) -> Followed:
    """The durable rows from an offset on; if there are none, wait for some within the bound.

    Raises:
        OffsetGone: that part of the log was let go.
    """
    if owner.durable_tip <= call.offset and call.wait_seconds > 0:
        try:
            async with asyncio.timeout(call.wait_seconds):
                await owner.wait_beyond(call.offset)
        except TimeoutError:
            pass  # nothing new within that bound: an empty answer says so
    OffsetGone.check(call.offset, first=owner.first, log=address_of(owner.folder))
    await owner.ready(call.offset, limit=call.limit)
    events = owner.history.read(call.offset, stop=owner.durable_tip, limit=call.limit)
    return Followed(events=tuple(events), tip=owner.durable_tip)


async def settled(owner: LogOwner, offset: int, *, wait_seconds: float) -> Event | None:
    """The durable row that settles the message at ``offset``.

    None if there is none in time, or before the ownership ends.
    """
    try:
        async with asyncio.timeout(wait_seconds):
            return await _settled(owner, offset)
    except TimeoutError:
        return None


async def _settled(owner: LogOwner, offset: int) -> Event | None:
    seen = offset
    while True:
        await owner.ready(seen)
        tip = owner.durable_tip
        for event in owner.history.read(seen, stop=tip, types=SETTLING_TYPES):
            if settles(event, offset):
                return event
        await owner.wait_beyond(tip)
        if owner.durable_tip == tip:
            return None
        seen = tip
