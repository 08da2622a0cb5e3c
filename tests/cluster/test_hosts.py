"""Hosts on Ray: how entities wake, wait, lose their host, and leave."""

from __future__ import annotations

import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

import psutil
import pytest

from ray_agents.errors import HandlerFailed, InvalidDefinition
from ray_agents.views import Status
from tests.cluster.rig import (
    HOST_TITLE,
    KEEPER_TITLE,
    Rig,
    closed_covers,
    eventually,
    ids,
    kill,
    rows,
    title_of,
    wakes,
)

if TYPE_CHECKING:
    from ray_agents.client import Client

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]
SOON = timedelta(seconds=30)
WAKES = int(os.environ.get("WAKES", "6"))


def waiting_pid(gate: Path) -> int:
    """The process in which a handler waits at the gate."""

    def look() -> int:
        found = [int(path.suffix[1:]) for path in gate.parent.glob(f"{gate.stem}.*")]
        return next((pid for pid in found if psutil.pid_exists(pid)), 0)

    return eventually(look)


def handled(rig: Rig, address: str, message: str) -> bool:
    return closed_covers(rig.log(address)).get(message) == 1


def assert_whole(rig: Rig, address: str, *messages: str) -> None:
    """Each message once in the inbox, once in a closed wake, once in the rows."""
    events = rig.log(address)
    assert ids(events) == list(messages)
    assert closed_covers(events) == dict.fromkeys(messages, 1)
    assert rows(events) == list(messages)


@pytest.mark.parametrize("kind", ["note", "lone"])
def test_work_goes_on_by_itself_after_its_host_was_killed(
    rig: Rig, client: Client, tmp_path: Path, kind: str
) -> None:
    gate, address = tmp_path / "gate", f"/{kind}/orphan"
    client.spawn(address)
    client.send(address, {"do": "await", "gate": str(gate)}, id="a")
    kill(waiting_pid(gate))
    gate.touch()
    eventually(lambda: handled(rig, address, "a"), within=timedelta(seconds=10))
    assert_whole(rig, address, "a")
    assert wakes(rig.log(address))[-1].deaths == 1


def test_a_host_says_whom_it_is_there_for(rig: Rig, client: Client, tmp_path: Path) -> None:
    gates = {address: tmp_path / address[-3:] for address in ("/lone/ada", "/note/bob")}
    for address, gate in gates.items():
        client.spawn(address)
        client.send(address, {"do": "warn", "of": address, "gate": str(gate)})
    ada, bob = (psutil.Process(waiting_pid(gate)) for gate in gates.values())
    assert re.fullmatch(rf"{HOST_TITLE} solo-[0-9a-f]+ /lone/ada", title_of(ada))
    assert re.fullmatch(rf"{HOST_TITLE} packed-\d \(\d+ awake\)", title_of(bob))
    [line] = [line for line in rig.said().splitlines() if line.endswith("a word of /lone/ada")]
    assert re.fullmatch(r"[-0-9:, ]+ WARNING host solo-[0-9a-f]+ /lone/ada: a word of .*", line)
    assert client.inspect("/note/bob").host in rig.keeper_status()["hosts"]
    for gate in gates.values():
        gate.touch()


def test_entities_that_wait_at_the_front_outlive_it(rig: Rig, client: Client) -> None:
    for kind in ("gpu", "strange"):
        client.spawn(f"/{kind}/patient")
        client.send(f"/{kind}/patient", {}, id="a")
    front = client.inspect("/gpu/patient").pid
    assert front is not None
    kill(front)

    def accepted_again() -> bool:
        views = [client.inspect(f"/{kind}/patient") for kind in ("gpu", "strange")]
        return all(view.waiting_for and view.pid not in (None, front) for view in views)

    eventually(accepted_again)
    client.kill("/strange/patient")
    eventually(lambda: client.inspect("/strange/patient").pid is None)


def test_a_killed_keeper_comes_back_and_fills_the_pool(rig: Rig, client: Client) -> None:
    client.spawn("/lone/before")
    client.ask("/lone/before", {}, within=SOON)
    [keeper] = rig.titled(KEEPER_TITLE)
    kill(keeper)
    kill_pids = {process.pid for process in rig.titled(HOST_TITLE)}
    for pid in kill_pids:
        kill(pid)
    client.spawn("/lone/after")
    client.send("/lone/after", {}, id="a")
    eventually(lambda: handled(rig, "/lone/after", "a"))
    assert keeper.pid not in [process.pid for process in rig.titled(KEEPER_TITLE)]
    eventually(lambda: rig.keeper_status()["idle"] == rig.settings.pool_size)


def test_a_message_is_acknowledged_as_fast_whatever_its_entity_waits_for(
    client: Client,
) -> None:
    times: dict[str, float] = {}
    for kind in ("note", "gpu", "strange"):
        address, taken = f"/{kind}/quick", list[float]()
        client.spawn(address)
        for number in range(15):
            begun = monotonic()
            client.send(address, {"number": number})
            taken.append(monotonic() - begun)
        times[kind] = median(taken)
    print({kind: f"{seconds * 1000:.1f} ms" for kind, seconds in times.items()})
    view = client.inspect("/gpu/quick")
    assert (view.status, view.waiting_for) == (Status.WAITING, "num_gpus=1")
    assert client.inspect("/strange/quick").waiting_for == "unobtainium=1"
    assert max(times.values()) < 5 * times["note"] + 0.02
    for kind in ("gpu", "strange"):
        client.kill(f"/{kind}/quick")


@pytest.mark.parametrize("deed", ["die", "exit"])
def test_a_handler_that_ends_its_process_is_retried_alone_and_then_parked(
    rig: Rig, client: Client, deed: str
) -> None:
    address = f"/note/culprit-{deed}"
    client.spawn(address)
    bystander = f"/note/bystander-{deed}"
    client.spawn(bystander)
    client.send(address, {"do": deed}, id="bad")
    with pytest.raises(HandlerFailed):
        client.ask(address, {"do": deed}, within=timedelta(seconds=60), id="bad")
    client.ask(bystander, {}, within=SOON)
    [parked] = client.inspect(address).parked
    assert parked.attempts == 3
    assert ("died" if deed == "die" else "SystemExit") in parked.error
    hosts = [wake.host for wake in wakes(rig.log(address)) if wake.status.value == "started"]
    if deed == "die":
        assert [host.partition("-")[0] for host in hosts] == ["packed", "packed", "solo"]
    assert client.ask(address, {}, within=SOON).value["attempt"] == 1


def test_a_handler_that_never_returns_meets_its_limit(client: Client) -> None:
    client.spawn("/hasty/endless")
    with pytest.raises(HandlerFailed, match="handler_time_max"):
        client.ask("/hasty/endless", {"do": "hang"}, within=SOON)
    assert client.ask("/hasty/endless", {}, within=SOON).value["attempt"] == 1


def test_no_host_is_left_over_after_many_wakes(rig: Rig, client: Client) -> None:
    addresses = [f"/lone/many-{number}" for number in range(WAKES)]
    for address in addresses:
        client.spawn(address, message={})
    for address in addresses:
        eventually(lambda a=address: rows(rig.log(a)), within=SOON + timedelta(seconds=WAKES))
    spare = rig.settings.pool_size
    eventually(lambda: rig.keeper_status()["idle"] == spare)
    solos = [host for host in rig.keeper_status()["hosts"] if host.startswith("solo")]
    eventually(lambda: sum(h.startswith("solo") for h in rig.keeper_status()["hosts"]) == spare)
    print(f"{len(solos)} solo hosts right after, {spare} soon after")


def test_code_that_a_host_cannot_import_is_named_when_it_is_spawned(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_agents.cluster.shipping import import_registry

    (tmp_path / "lonely.py").write_text(
        "import only_in_this_process\n"
        "from ray_agents.definition import Registry\n"
        "registry = Registry()\n"
        "async def handler(ctx, wake): ...\n"
        "registry.define('lonely', handler=handler)\n"
    )
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "only_in_this_process", ModuleType("only_in_this_process"))
    client.register(import_registry("lonely:registry"), source="lonely:registry")
    with pytest.raises(InvalidDefinition, match=r"'lonely:registry' cannot be imported"):
        client.spawn("/lonely/one")
