"""A Ray that answers this machine only, and there only who has the token.

What Ray 2.60.0 does by itself, found by listing sockets (``tests/cluster/test_launch.py`` does):

- ``--node-ip-address 127.0.0.1`` is *replaced* by the machine's outward address
  (``services.resolve_ip_for_localhost``), after which gcs_server and raylet listen on ``[::]``,
  the metrics servers of dashboard, autoscaler and agent on ``0.0.0.0``, the agents on the
  outward address. Only if Ray thinks that this platform has no clusters does
  ``get_node_ip_address`` return 127.0.0.1, and then every one of them binds to loopback: the C++
  servers compare the node's address with 127.0.0.1, the Python ones with ``is_localhost``. The
  switch is ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``, on Linux too. Drivers need it as well, or
  they resolve 127.0.0.1 to the outward address and find nobody there.
- Fixed ports that two clusters on one machine would fight for: 10001 (Ray client server; no
  option switches it off, see ``quiet_head``), 44217 (autoscaler metrics, gone with
  ``--no-monitor``), 44227 (dashboard metrics, ``DASHBOARD_METRIC_PORT=0``), 52365 (agent,
  ``--dashboard-agent-listen-port 0``), and 10002-19999 (workers, port 0).
- A Serve replica's server for calls between deployments listens on ``[::]`` whatever the host
  (``serve/_private/replica.py``); see ``narrow_replica``. HAProxy is ``ingress``'s business.
- Any user of this machine can still connect to loopback, so token authentication is on as well.
  Ray's default token file is made with the umask's mode, mostly world-readable: we hand it ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
ONLY_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
START_HOOK = "ray_agents.cluster.loopback.quiet_head"


def driver_environment(token_file: Path) -> dict[str, str]:
    """What a process needs to join a loopback cluster as a driver."""
    return {
        ONLY_LOOPBACK: "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def head_environment(token_file: Path) -> dict[str, str]:
    """What the daemons of a loopback cluster need; workers inherit it."""
    return driver_environment(token_file) | {
        "RAY_START_HOOK": START_HOOK,
        "DASHBOARD_METRIC_PORT": "0",
        "AUTOSCALER_METRIC_PORT": "0",  # an embedded head has no `--no-monitor`
        # Ray would start one idle worker per CPU for the first driver, 1.1 CPU-seconds each, of
        # which no detached actor makes use: our own pool is the one that is kept warm.
        "RAY_prestart_worker_first_driver": "0",
        # Workers would be niced by 15: the hosts are what people wait for, not batch work.
        "RAY_worker_niceness": "0",
    }


def quiet_head(params: Any, head: bool) -> None:  # noqa: FBT001 - as Ray calls it
    """Ray's ``RAY_START_HOOK``: no Ray client server, which has no option to switch it off."""
    if head:
        params.ray_client_server_port = None


def narrow_replica() -> None:
    """In a Serve replica on loopback, before it is initialized: its gRPC server binds there too.

    The address is a literal in Serve, so the function that takes it is wrapped. The server asks
    for Ray's token anyway; this can go when Serve binds it to the node's address.
    """
    if os.environ.get(ONLY_LOOPBACK) != "0":
        return
    replica: Any = import_module("ray.serve._private.replica")
    add_port: Any = replica.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> int:
        return int(add_port(server, address.replace("[::]", LOOPBACK)))

    replica.add_port_to_grpc_server = add_loopback_port


def apply_to_this_process(environment: Mapping[str, str]) -> None:
    """Set ``environment`` here, before or after ``import ray``.

    Ray reads the loopback switch when it is imported, and its C++ half caches the authentication
    mode and the token; a notebook that has imported Ray already needs them refreshed.
    """
    os.environ.update(environment)
    if "ray" not in sys.modules:
        return
    constants: Any = import_module("ray._private.ray_constants")
    raylet: Any = import_module("ray._raylet")
    constants.ENABLE_RAY_CLUSTER = environment.get(ONLY_LOOPBACK) != "0"
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
