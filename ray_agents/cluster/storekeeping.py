"""Looking after a store without a runtime: what ``ray-agents log`` does. It never loads Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing

from ray_agents.address import Address
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.folders import entity_folder
from ray_agents.errors import StoreUnavailable, UnknownEntity
from ray_agents.findings import Fault, Verification
from ray_agents.log.examination import InUse, examine_log
from ray_agents.log.owner import LogIO
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.repair import repair_found
from ray_agents.log.store import FORMAT_FILE, look_into, open_blobs
from ray_agents.log.verification import verify_store
from ray_agents.ports import Blobs
from ray_agents.settings import Settings


def verify(
    settings: Settings,
    *,
    address: str | None,
    repair: bool,
    progress: Callable[[int, int], None],
) -> Verification:
    """What is wrong with an entity's log, or without an address with the whole store.

    Raises:
        InvalidAddress: the address is none.
        UnknownEntity: it has no log.
        StoreUnavailable: there is no such store, its medium refuses, or, for a repair, it may not
            be written: another format, or a mount that caches names.
    """
    blobs = look_into(settings.store)
    if repair and not isinstance(blobs, DirectoryBlobs):
        message = (
            f"logs in {settings.store!r} are not repaired: an append to a bucket is there whole or "
            "not at all, so no owner leaves a torn tail; leave --repair out, and restore what is "
            "damaged from a backup"
        )
        raise StoreUnavailable(message, path=settings.store)
    if address is None:
        found = verify_store(blobs, in_use=blobs.in_use, progress=progress)
    else:
        found = _examine(blobs, Address.parse(address), settings.store, in_use=blobs.in_use)
    torn = any(finding.fault is Fault.TORN for finding in found.findings)
    if not (repair and torn and isinstance(blobs, DirectoryBlobs)):
        return found
    return asyncio.run(_repaired(_open_to_repair(blobs, settings.store), found))


def _examine(blobs: Blobs, address: Address, store: str, *, in_use: InUse) -> Verification:
    folder = entity_folder(address)
    if not blobs.names(folder):
        message = f"no entity {str(address)!r} has a log in the store {store!r}"
        raise UnknownEntity(message, address=str(address))
    return examine_log(blobs, folder, in_use=in_use)


def _open_to_repair(blobs: DirectoryBlobs, store: str) -> DirectoryBlobs:
    """The same store, once all is checked that opening it for writing checks."""
    if not blobs.exists(FORMAT_FILE):
        message = f"{store!r} says nowhere which format it has; restore its file {FORMAT_FILE!r}"
        raise StoreUnavailable(message, path=store)
    open_blobs(store)
    return blobs


async def _repaired(blobs: DirectoryBlobs, found: Verification) -> Verification:
    with closing(LogIO()) as io:
        return await repair_found(blobs, found, in_use=blobs.in_use, clock=SystemClock(), io=io)
