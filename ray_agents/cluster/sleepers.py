"""What a host still knows of the entities that fell asleep in it: how each was left.

One may wake there again without a look at its log. The claim of the next epoch tells whether that
is still true: if it succeeds, nobody has written since, and the state is still that of the log.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from ray_agents.address import Address
from ray_agents.cluster.entity import Entity
from ray_agents.log.owner import Head
from ray_agents.projection import State

REMEMBERED_MAX = 10_000
STATE_CHARS_MAX = 4_000  # of a sleeper's rows: 40 MB in all


class Left(NamedTuple):
    """How an entity was left; a large state, or one with anything left open, is not kept."""

    head: Head
    state: State | None


class Sleepers:
    """The entities that fell asleep in ``host`` last, a bounded number."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._left: OrderedDict[Address, Left] = OrderedDict()

    def remember(self, entity: Entity) -> None:
        """Keep how ``entity`` was left, which has just sealed its log."""
        head = Head(epoch=entity.owner.epoch, host=self._host, token="", sealed=True)
        state = entity.state
        left_open = entity.unfinished or state.timers or state.outbox or state.wakes
        small = not left_open and state.size <= STATE_CHARS_MAX
        self._left[entity.address] = Left(head, state if small else None)
        if len(self._left) > REMEMBERED_MAX:
            self._left.popitem(last=False)

    def recall(self, address: Address) -> Left | None:
        """How an entity was left here, told once: a second try looks at the log."""
        return self._left.pop(address, None)
