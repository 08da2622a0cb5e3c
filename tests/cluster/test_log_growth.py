"""A run's log grows with what is new and not with what was said before: prompts are not in it.

A text stands in it twice, in pieces and in its step; a call's arguments three times, in the step
and as the call runs and has ended; a result once. The rest is what rows and frames cost. The model
speaks at once here: a slow stream is logged in more pieces, each a frame, until they are merged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.events import encode
from ray_agents.model import Model, ModelRequest
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.tools import tool
from tests.cluster.conftest import ask, spawned

CALLS = 100
HALF = 50
RESULT_CHARS, ARGS_CHARS, TEXT_CHARS = 2_500, 120, 400
CALL_BYTES_MAX = 5_000  # what a call costs beside its content, each of its copies
registry = Registry()


def words(seed: object, chars: int) -> str:
    """Text that no compression makes small."""
    random = Random(f"{seed}")
    return "".join(random.choice("abcdefghij klmno pqrst") for _ in range(chars))


@tool
async def search(query: str) -> str:
    """Search."""
    return words(f"result {query}", RESULT_CHARS)


@registry.entity("searcher")
async def searcher(ctx: Any, wake: Any) -> Any:
    """Call a tool a hundred times in one run."""
    ctx.use_agent("You search.", tools=[search], turns_max=CALLS + 1)
    result = await ctx.agent.run()
    return [result.steps, len(result.tool_calls)]


class Searching:
    """Answers each call by another one, and notes the size of the log before the fiftieth."""

    def __init__(self, size: Callable[[], int]) -> None:
        self._size = size
        self.asked = 0
        self.prompts = 0
        self.at_half = 0

    def __call__(self, request: ModelRequest) -> Says:
        if self.asked == HALF:
            self.at_half = self._size()
        self.asked += 1
        self.prompts += len(encode(list(request.messages)))
        if self.asked > CALLS:
            return Says(text="Done.")
        query = words(self.asked, ARGS_CHARS)
        return Says(text=words(-self.asked, TEXT_CHARS), calls=[("search", {"query": query})])


async def test_the_log_of_a_long_run_is_linear_and_under_three_times_what_is_new(
    tmp_path: Path,
) -> None:
    folder = tmp_path / entity_folder(Address.parse("/searcher/s"))

    def size() -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    searching = Searching(size)

    def model_for(_: AgentConfig) -> Model:
        return FunctionModel(searching)

    async with LocalRuntime(str(tmp_path), model_for=model_for) as runtime:
        await runtime.register(registry)
        reply = await ask(runtime, await spawned(runtime, "/searcher/s"), "go")
        whole = size()
    assert reply.value == [CALLS + 1, CALLS]
    new = CALLS * (RESULT_CHARS + ARGS_CHARS + TEXT_CHARS)
    second_half = whole - searching.at_half
    assert second_half < 1.1 * searching.at_half
    assert whole < 3 * new
    assert whole < searching.prompts / 10
    copies = CALLS * (RESULT_CHARS + 3 * ARGS_CHARS + 2 * TEXT_CHARS)
    assert whole - copies < CALLS * CALL_BYTES_MAX
