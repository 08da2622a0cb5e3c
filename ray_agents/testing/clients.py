"""A client whose runtime is this process: no Ray, no network, and by default no disk.

    with local_client() as client:
        client.register(registry)
        client.spawn("/assistant/ada")
        assert client.ask("/assistant/ada", "Hello").text == "Hi!"

Give ``test_responses`` to ``ctx.use_agent`` (or ``model_for`` here) in place of a model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from ray_agents.agent import AgentConfig
from ray_agents.client import AsyncClient, Client
from ray_agents.cluster.local import LocalRuntime
from ray_agents.model import Model
from ray_agents.ports import Blobs, Clock
from ray_agents.tables.cost import cost_in


@contextmanager
def local_client(
    store: str | Blobs = "memory:",
    *,
    clock: Clock | None = None,
    model_for: Callable[[AgentConfig], Model] | None = None,
) -> Generator[Client]:
    """A blocking client of a runtime in this process, which ends with the block.

    Args:
        store: a directory, or ``memory:``, or blobs that another runtime has used.
        clock: None for the machine's own.
        model_for: chooses the model of an agent run; None calls the real ones.
    """
    runtime = LocalRuntime(store, clock=clock, model_for=model_for)
    with Client(runtime, cost=partial(cost_in, runtime.blobs)) as client:
        yield client


@asynccontextmanager
async def local_async_client(
    store: str | Blobs = "memory:",
    *,
    clock: Clock | None = None,
    model_for: Callable[[AgentConfig], Model] | None = None,
) -> AsyncGenerator[AsyncClient]:
    """As :func:`local_client`, with coroutines."""
    runtime = LocalRuntime(store, clock=clock, model_for=model_for)
    async with AsyncClient(runtime, cost=partial(cost_in, runtime.blobs)) as client:
        yield client
