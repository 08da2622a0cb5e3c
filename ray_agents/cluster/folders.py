"""Where things lie in a store: the folder of each entity, host and definition."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from ray_agents.address import Address
from ray_agents.log.store import ENTITIES, HOSTS, INDEX, TYPES

SHARDS = 256


def entity_folder(address: Address) -> str:
    """The folder of an entity's log, spread over shards so that none grows too wide."""
    shard = xxh3_64_intdigest(address.id.encode()) % SHARDS
    return f"{ENTITIES}/{address.type}/{shard:02x}/{address.id}"


def address_of(folder: str) -> str:
    """Whose log is in a folder: an address, or the folder's own name."""
    parts = folder.split("/")
    return f"/{parts[1]}/{parts[3]}" if parts[0] == ENTITIES and len(parts) == 4 else folder


def host_folder(host_id: str) -> str:
    """The folder of a host's own log."""
    return f"{HOSTS}/{host_id}"


def index_folder(number: int) -> str:
    """The folder of the log of due times; a new number follows one that cannot be read."""
    return f"{INDEX}/{number:04d}"


def type_folder(type_name: str) -> str:
    """The folder of a type's definitions, one file a version."""
    return f"{TYPES}/{type_name}"
