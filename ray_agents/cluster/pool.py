"""The warm pool: the front's view of it, and the keeper's decision how many hosts to start.

A dedicated entity that is to wake gets an idle host at once. Without one the front itself accepts
its messages and puts it in line; each host that the keeper offers goes to the longest waiting. A
host lent to a caller that never came comes back after a while.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from ray_agents.address import Address

LEASE_MAX = timedelta(seconds=2)
STARTING_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A host lent for an entity at ``since`` (monotonic seconds)."""

    host: str
    since: float


@dataclass(slots=True)
class Pool:
    """Pure bookkeeping; the front acts on it."""

    idle: deque[str] = field(default_factory=deque[str])
    leases: dict[Address, Lease] = field(default_factory=dict[Address, Lease])
    waiting: OrderedDict[Address, None] = field(default_factory=OrderedDict[Address, None])

    def lend(self, address: Address, *, now: float, spent: str | None) -> str | None:
        """A host for the entity, the same one again while its lease lasts; None if there is none.

        A lease of the host ``spent`` is over: the entity has been awake there, and sleeps.
        """
        self._forget_old(now)
        lease = self.leases.get(address)
        if lease is not None and lease.host != spent:
            return lease.host
        if self.waiting or not self.idle:
            return None
        host = self.idle.popleft()
        self.leases[address] = Lease(host=host, since=now)
        return host

    def wait(self, address: Address) -> bool:
        """Put an entity in line; whether it was not there yet."""
        known = address in self.waiting
        self.waiting.setdefault(address)
        return not known

    def offer(self, host: str, *, now: float, waits: Callable[[Address], bool]) -> Address | None:
        """An idle host; the entity it goes to at once, if one still waits. Twice is harmless."""
        self._forget_old(now)
        if host in self.idle or any(lease.host == host for lease in self.leases.values()):
            return None
        while self.waiting:
            address, _ = self.waiting.popitem(last=False)
            if waits(address):
                self.leases[address] = Lease(host=host, since=now)
                return address
        self.idle.append(host)
        return None

    def retire(self, host: str) -> bool:
        """Lend this host to nobody any more; whether it was idle, so that it may end."""
        if host not in self.idle:
            return False
        self.idle.remove(host)
        return True

    def drop(self, host: str) -> None:
        """A host has died, or is not lent any more."""
        self.idle = deque(each for each in self.idle if each != host)
        self.leases = {a: lease for a, lease in self.leases.items() if lease.host != host}

    def _forget_old(self, now: float) -> None:
        limit = now - LEASE_MAX.total_seconds()
        self.leases = {a: lease for a, lease in self.leases.items() if lease.since > limit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Solo hosts as the keeper counts them: all that live, the idle of them, those starting."""

    living: int
    idle: int
    starting: int

    def to_start(self, *, size: int, most: int, waiting: int) -> int:
        """How many to start now, so that nobody waits and ``size`` are idle, within ``most``."""
        missing = size + waiting - self.idle - self.starting
        room = most - self.living - self.starting
        return max(0, min(missing, room, STARTING_MAX - self.starting))

    def surplus(self, *, size: int, waiting: int) -> int:
        """How many idle hosts are too many: started for who did not need them in the end."""
        return max(0, self.idle - size - waiting)
