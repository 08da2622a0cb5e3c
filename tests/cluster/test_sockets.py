"""Ports of this machine: free, taken, and by whom."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import psutil
import pytest

from ray_agents.cluster import sockets
from ray_agents.cluster.sockets import Listener, free_ports, holder_of, listeners_of, require_free
from ray_agents.errors import PortTaken


def test_free_ports_are_all_different_and_free() -> None:
    """At one of three times: between finding and looking, somebody else may take one."""
    for _ in range(3):
        ports = free_ports(20)
        assert len(set(ports)) == 20
        with suppress(PortTaken):
            for port in ports:
                require_free("127.0.0.1", port)
            return
    pytest.fail("some are taken each time")


def test_a_taken_port_names_port_and_process() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{port}.*pid {os.getpid()}") as caught:
            require_free("127.0.0.1", port)
    assert caught.value.facts["pid"] == os.getpid()
    assert caught.value.facts["port"] == port


def test_a_port_that_is_shared_by_so_reuseport_counts_as_taken() -> None:
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        door.bind(("127.0.0.1", 0))
        door.listen()
        with pytest.raises(PortTaken):
            require_free("127.0.0.1", door.getsockname()[1])


def test_a_host_that_is_not_ours_is_refused_too() -> None:
    with pytest.raises(PortTaken, match="203"):
        require_free("203.0.113.1", 4437)


@pytest.mark.parametrize(
    ("process", "told"), [("haproxy", "`ray-agents stop` in the folder"), ("nc", "stop that proc")]
)
def test_what_to_do_about_a_taken_port_depends_on_who_holds_it(
    monkeypatch: pytest.MonkeyPatch, process: str, told: str
) -> None:
    holder = Listener(pid=7, process=process, host="127.0.0.1", port=1)

    def held_by(_: int) -> Listener:
        return holder

    monkeypatch.setattr(sockets, "holder_of", held_by)
    with socket.create_server(("127.0.0.1", 0)) as door, pytest.raises(PortTaken) as caught:
        require_free("127.0.0.1", door.getsockname()[1])
    assert told in caught.value.message
    assert "or choose another port with --port" in caught.value.message


def test_nobody_holds_a_free_port() -> None:
    assert holder_of(free_ports(1)[0]) is None


def test_listeners_of_this_process_are_seen() -> None:
    with socket.socket() as door, socket.socket(type=socket.SOCK_DGRAM) as letterbox:
        door.bind(("127.0.0.1", 0))
        door.listen()
        letterbox.bind(("127.0.0.1", 0))
        seen = {listener.port for listener in listeners_of([psutil.Process()])}
        assert {door.getsockname()[1], letterbox.getsockname()[1]} <= seen


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - what must be told apart
        ("::", False),
        ("192.0.2.2", False),
        ("::ffff:192.0.2.2", False),
    ],
)
def test_loopback_is_told_from_what_others_reach(host: str, *, on_loopback: bool) -> None:
    assert Listener(pid=1, process="x", host=host, port=1).on_loopback is on_loopback
