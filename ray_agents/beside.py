"""What runs side by side say, which none of them knows of the others: for summaries to respect."""

from __future__ import annotations

from collections.abc import Iterable

from ray_agents.events import Event, Operation
from ray_agents.runs import ENDED, STEERED

SAYING = frozenset({"run", "step", "tool_call", STEERED})  # rows that turns are made of


def is_alone(run: str, rows: Iterable[Event], *, before: int | None) -> bool:
    """Whether by ``rows``, of types SAYING, no other run has said anything since one began.

    What was said ``before`` an offset counts, all of it if that is None. Runs inside of its tools
    do not count: what came of them is in the results.
    """
    begun = set[str]()
    for row in rows:
        if before is not None and row.offset >= before:
            break
        who = row.key.partition(":")[0]
        if run in begun and who != run and not who.startswith(f"{run}-") and _says(row, begun):
            return False
        if row.type == "run":
            begun.add(who)
    return True


def _says(row: Event, begun: set[str]) -> bool:
    """Whether a turn is made of a row; a run is told something when it begins, but not again."""
    if row.type == "run":
        return row.key not in begun
    return row.operation is not Operation.DELETE and (
        row.type == STEERED or row.value["status"] in ENDED
    )
