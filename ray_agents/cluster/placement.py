"""Which host a waking entity goes to: names of hosts, and rendezvous hashing over packed ones.

Host names say nothing of entities; who owns what is in the log. A host's *id* is its actor's name
and a fresh suffix, one per process: ``packed-0.k3x…``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from xxhash import xxh3_64_intdigest

from ray_agents.address import Address
from ray_agents.definition import Dedicated, Packed, Placement

KEEPER = "keeper"
FRONT = "front"
PACKED = "packed"
SOLO = "solo"


def actor_name(host: str) -> str:
    """The name of the actor in which ``host`` lives or lived."""
    return host.partition(".")[0]


def kind_of(name: str) -> str:
    """``front``, ``packed`` or ``solo``."""
    return name.partition("-")[0]


def entry_name(
    address: Address, placement: Placement, *, silent: AbstractSet[str] = frozenset()
) -> str:
    """The actor to which a call for a sleeping entity goes first, past the ``silent`` ones."""
    match placement:
        case Packed(hosts=hosts):
            slots = {slot for slot in range(hosts) if f"{PACKED}-{slot}" not in silent}
            return f"{PACKED}-{rendezvous(str(address), slots or set(range(hosts)))}"
        case Dedicated():
            return FRONT


def rendezvous(key: str, slots: AbstractSet[int]) -> int:
    """Highest random weight: few keys move when ``slots`` change (Thaler, Ravishankar 1998)."""
    return max(slots, key=lambda slot: xxh3_64_intdigest(f"{slot}|{key}".encode()))
