"""The control API on Ray Serve over a runtime in memory: what Serve itself does, without hosts."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve as ray_serve

from ray_agents.client import replica_settings
from serve.api import create_app
from tests.fake_runtime import FakeRuntime

untyped_serve: Any = ray_serve


def build() -> FastAPI:
    """As ``serve.app.build``, with the runtime exchanged."""
    return create_app(lambda _: FakeRuntime(), replica_settings())


app: Any = untyped_serve.deployment(
    untyped_serve.ingress(build)(),
    name="ControlApi",
    max_ongoing_requests=1_000,
    ray_actor_options={"num_cpus": 0},
).bind()
