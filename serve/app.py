"""The control API on Ray Serve: ``serve.app:app``, as ``serve run`` and config.yaml name it.

Each replica reads its settings from its environment and joins the cluster it runs in.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve as ray_serve

from ray_agents.client import connect_runtime, replica_settings
from serve.api import create_app

STREAMS_MAX = 1_000  # every live stream holds one of the replica's places; Serve's default is 5
untyped_serve: Any = ray_serve  # its decorators are typed in part only


def build() -> FastAPI:
    """The API over the cluster this process runs in; Serve calls it in the replica."""
    return create_app(connect_runtime, replica_settings())


app: Any = untyped_serve.deployment(
    untyped_serve.ingress(build)(),
    name="ControlApi",
    max_ongoing_requests=STREAMS_MAX,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=5,
    logging_config={"enable_access_log": False},
).bind()
