"""Ports on this machine: which are free, who holds them, and what a set of processes listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import psutil

from ray_agents.errors import PortTaken

LOOPBACK = "127.0.0.1"
PROXY = "haproxy"  # the process that listens on a control API's port


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening TCP socket, or one unconnected UDP socket."""

    pid: int
    process: str
    host: str
    port: int

    @property
    def on_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        address = ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def free_ports(count: int) -> list[int]:
    """``count`` different ports that nothing on loopback listens on at this moment."""
    with ExitStack() as held:
        return [_bound(held).getsockname()[1] for _ in range(count)]


def _bound(held: ExitStack) -> socket.socket:
    opened = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    opened.bind((LOOPBACK, 0))
    return opened


def require_free(host: str, port: int) -> None:
    """Check that we can listen on ``host:port``.

    HAProxy opens its port with SO_REUSEPORT, so two clusters with one port would *share* it
    without an error and answer each other's requests: the check has to be made before.

    Raises:
        PortTaken: something listens there, or we may not; the process is named if we may know it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = holder_of(port)
            by = f" by {holder.process!r} (pid {holder.pid})" if holder else ""
            raise PortTaken(
                f"port {port!r} on {host!r} is taken{by} ({error.strerror}); "
                f"{_way_out(holder)}, or choose another port with --port or RAY_AGENTS_HTTP_PORT",
                host=host,
                port=port,
                pid=holder.pid if holder else None,
                process=holder.process if holder else None,
            ) from error


def _way_out(holder: Listener | None) -> str:
    """What to do about who holds a port."""
    if holder is None or holder.process != PROXY:
        return "stop that process"
    return (
        "it may be the proxy of another ray-agents runtime: end that with `ray-agents stop` in "
        "the folder where it was started"
    )


def holder_of(port: int) -> Listener | None:
    """Who listens on ``port``, if this user may see it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None  # on macOS only root sees the sockets of other processes
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,) and each.pid:
            return _listener(each.pid, _name(each.pid), each.laddr)
    return None


def listeners_of(processes: Iterable[psutil.Process]) -> list[Listener]:
    """Every socket on which one of ``processes`` waits for strangers, by port."""
    found: list[Listener] = []
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
            name = process.name()
        except psutil.NoSuchProcess:
            continue
        found += [
            _listener(process.pid, name, each.laddr)
            for each in connections
            if each.status == psutil.CONN_LISTEN
            or (each.type == socket.SOCK_DGRAM and not each.raddr)
        ]
    return sorted(found, key=lambda listener: listener.port)


def _listener(pid: int, process: str, address: Any) -> Listener:
    return Listener(pid=pid, process=process, host=address[0], port=address[1])


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return "a process that has just ended"
