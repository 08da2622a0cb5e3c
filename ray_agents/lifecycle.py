"""Status of an entity, derived: one table from what is known to the one word people see.

    known                                   status
    ------------------------------------    ---------
    the life is over                        stopped
    no owner, nothing left to do            sleeping
    no owner, something left to do          waiting     (a host will be found for it)
    owner, waits for resources or a model   waiting
    waits for people to approve something   waiting     (nobody need own it)
    owner, handler running                  running
    owner, between two attempts             retrying
    owner, nothing running                  idle

Nothing here is stored: a flag could lie, ownership and log cannot (DESIGN invariant 8).
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_agents.views import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What ownership and log tell of an entity."""

    stopped: bool = False
    owned: bool = False
    placed: bool = True
    running: bool = False
    unfinished: bool = False
    undecided: bool = False


TABLE: tuple[tuple[Known, Status], ...] = (
    (Known(owned=False, unfinished=False), Status.SLEEPING),
    (Known(owned=False, unfinished=True), Status.WAITING),
    (Known(undecided=True), Status.WAITING),
    (Known(owned=True, placed=False), Status.WAITING),
    (Known(owned=True, placed=False, unfinished=True), Status.WAITING),
    (Known(owned=True, running=True, unfinished=True), Status.RUNNING),
    (Known(owned=True, running=False, unfinished=True), Status.RETRYING),
    (Known(owned=True, running=False, unfinished=False), Status.IDLE),
)
_BY_FACTS = dict(TABLE)


def status_of(known: Known) -> Status:
    """The status of an entity of which this is known."""
    if known.stopped:
        return Status.STOPPED
    if known.undecided and not (known.owned and known.running):
        known = Known(undecided=True)
    elif not known.owned:
        known = Known(owned=False, unfinished=known.unfinished)
    elif not known.placed:
        known = Known(owned=True, placed=False, unfinished=known.unfinished)
    elif known.running:
        known = Known(owned=True, running=True, unfinished=True)
    return _BY_FACTS[known]
