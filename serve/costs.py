"""What the agents have spent, over HTTP: a reading of all logs of the store, one at a time.

A reading goes on in its thread whatever becomes of who asked, so the next one waits for its end.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime

from ray_agents.errors import RuntimeUnavailable
from ray_agents.tables.cost import cost_in
from ray_agents.views import CostBy, CostLine

WAITING_MAX = 16

costs = APIRouter(tags=["cost"])


class Reader:
    """Reads the costs in one store."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._one_at_a_time = asyncio.Lock()
        self._readings: set[asyncio.Task[list[CostLine]]] = set()

    async def read(self, by: CostBy, since: datetime | None) -> list[CostLine]:
        """What was spent.

        Raises:
            RuntimeUnavailable: too many wait for that already.
        """
        if len(self._readings) >= WAITING_MAX:
            message = f"{WAITING_MAX} reports of costs are being made already; ask again"
            raise RuntimeUnavailable(message)
        reading = asyncio.create_task(self._read(by, since))
        self._readings.add(reading)
        reading.add_done_callback(self._readings.discard)
        return await asyncio.shield(reading)

    async def _read(self, by: CostBy, since: datetime | None) -> list[CostLine]:
        async with self._one_at_a_time:
            return await cost_in(self._store, by=by, since=since)


def reader_of(request: Request) -> Reader:
    """The reader the app was made with."""
    return cast("Reader", request.app.state.costs)


By = Annotated[CostBy, Query(description="what a line stands for")]
Since = Annotated[
    AwareDatetime | None,
    Query(description="only steps that ended then or later: ISO 8601 with its zone"),
]


@costs.get("/v1/cost")
async def cost(
    reader: Annotated[Reader, Depends(reader_of)], by: By = "type", since: Since = None
) -> list[CostLine]:
    """Tokens by kind, and micro-dollars: a line for each type, entity, model, day or tree."""
    return await reader.read(by, since)
