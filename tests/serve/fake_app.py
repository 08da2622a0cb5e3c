"""The control API on Ray Serve over a runtime in memory: what Serve itself does, without hosts."""

from __future__ import annotations

import os

from fastapi import FastAPI
from ray import serve

from ray_agents.cluster.loopback import narrow_replica
from ray_agents.settings import from_env
from serve.api import create_app
from tests.fake_runtime import FakeRuntime


def build() -> FastAPI:
    """As ``serve.app.build``, with the runtime exchanged."""
    narrow_replica()
    return create_app(lambda _: FakeRuntime(), from_env(os.environ))


@serve.deployment(name="ControlApi", max_ongoing_requests=1_000, ray_actor_options={"num_cpus": 0})
@serve.ingress(build)
class FakeControlApi:
    """Nothing of its own."""


app = FakeControlApi.bind()
