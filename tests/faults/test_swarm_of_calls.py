"""A swarm against a server that takes few calls at once and refuses the rest.

With its gateway, and with the gateway killed in the middle.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest

from ray_agents.testing.messages_api import MessagesApi
from tests.cluster.rig import Rig, eventually, kill, wakes
from tests.cluster.swarms import SOURCE, ServerInThread, registry, thinker

if TYPE_CHECKING:
    from ray_agents.client import Client

ENTITIES = int(os.environ.get("ENTITIES", "200"))
CALLS = int(os.environ.get("CALLS", "5"))  # 20 is the whole trial
AT_ONCE = 20
WORD_DELAY = timedelta(milliseconds=int(os.environ.get("WORD_MS", "80")))  # four words a call
LONG = timedelta(seconds=60 + ENTITIES * CALLS / 15)  # on a machine that has much else to do
pytestmark = [pytest.mark.ray, pytest.mark.timeout(60 + 2 * LONG.total_seconds())]
GATEWAY_TITLE = "ray::ModelGateway"


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    script = thinker(CALLS, word_delay=WORD_DELAY)
    with ServerInThread(MessagesApi(script, concurrent_max=AT_ONCE)) as api:
        yield api


def begin(client: Client) -> None:
    """All members at work."""
    client.register(registry, source=SOURCE)
    for number in range(ENTITIES):
        client.spawn(f"/member/{number}", message={"text": "Think."})


def runs_of(rig: Rig) -> dict[str, tuple[int, int]]:
    """When each member's wake began and ended, in microseconds."""
    found: dict[str, tuple[int, int]] = {}
    for number in range(ENTITIES):
        recorded = wakes(rig.log(f"/member/{number}"))
        assert [each.attempt for each in recorded] == [1, 1], recorded
        found[f"/member/{number}"] = (recorded[0].timestamp, recorded[-1].timestamp)
    return found


def served(api: MessagesApi) -> dict[str, int]:
    """How many calls of each member the server has answered."""
    counts: dict[str, int] = defaultdict(int)
    for call in api.calls:
        counts[str(call.body["system"])] += call.ended == "whole"
    return counts


def shares_of(times: list[int]) -> list[float]:
    """Each as a part of the mean, which all would have had if all had the same."""
    return [each / mean(times) for each in times]


def report(rig: Rig, api: MessagesApi) -> None:
    """Print and check the figures of a swarm that is done."""
    runs, totals = runs_of(rig), api.totals
    begun = min(start for start, _ in runs.values())
    seconds = (max(end for _, end in runs.values()) - begun) / 1e6
    refused = totals.refused / totals.calls
    shares = shares_of([end - begun for _, end in runs.values()])  # since all began
    own = shares_of([end - start for start, end in runs.values()])  # since it began itself
    print(
        f"\n{ENTITIES} entities of {CALLS} calls, {AT_ONCE} at once: {seconds:.1f} s, "
        f"{totals.whole / seconds:.0f} calls/s; refused {totals.refused} of {totals.calls} "
        f"({refused:.2%}); the longest took {max(shares):.2f} of the fair share of the time "
        f"({max(own):.2f} since it began itself), the shortest {min(shares):.2f} ({min(own):.2f})"
    )
    assert totals.whole == ENTITIES * CALLS
    assert set(served(api).values()) == {CALLS}
    assert refused < 0.02
    assert max(shares) < 2
    assert max(own) < 2


def test_all_finish_few_calls_are_refused_and_nobody_is_left_behind(
    make_rig: Callable[..., Rig], api: MessagesApi
) -> None:
    rig = make_rig(anthropic_base_url=api.url)
    with rig.joined() as client:
        begin(client)
        eventually(lambda: api.totals.whole >= ENTITIES * CALLS / 10, within=LONG)
        waiting = client.inspect(f"/member/{ENTITIES // 2}").waiting_for
        eventually(lambda: api.totals.whole >= ENTITIES * CALLS / 2, within=LONG)
        status = rig.models_status()
        eventually(lambda: api.totals.whole == ENTITIES * CALLS, within=LONG)
        eventually(lambda: all_done(client), within=LONG)
        silent = of_a_stopped_gateway(rig)
    print(f"\nseen on the way: waiting for {waiting}; {status}")
    [model] = status["models"]
    assert (model["model"], model["hosts"]) == ("claude-sonnet-5-5", 2)
    assert min(model[what] for what in ("limit", "in_flight", "waiting", "waited_seconds")) > 0
    assert "does not answer within 2 s" in silent["model gateway"]
    report(rig, api)


def test_all_finish_though_the_gateway_is_killed_in_the_middle(
    make_rig: Callable[..., Rig], api: MessagesApi
) -> None:
    rig = make_rig(anthropic_base_url=api.url)
    with rig.joined() as client:
        begin(client)
        eventually(lambda: api.totals.whole >= ENTITIES * CALLS / 4, within=LONG)
        [gateway] = rig.titled(GATEWAY_TITLE)
        kill(gateway)
        eventually(lambda: api.totals.whole == ENTITIES * CALLS, within=LONG)
        eventually(lambda: all_done(client), within=LONG)
        eventually(lambda: rig.titled(GATEWAY_TITLE))
    assert "shares the limits of models with the others again" in rig.said()
    report(rig, api)


def of_a_stopped_gateway(rig: Rig) -> dict[str, Any]:
    """What is told of the models while the gateway is silent."""
    [gateway] = rig.titled(GATEWAY_TITLE)
    gateway.suspend()
    try:
        return rig.models_status()
    finally:
        gateway.resume()


def all_done(client: Client) -> bool:
    """Whether every member has handled its message."""
    return not any(view.backlog for view in client.list(type="member", limit=1_000).items)
