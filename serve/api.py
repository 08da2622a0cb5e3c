"""The control API as an ASGI application over any Runtime, without Ray: what tests drive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from ray_agents.errors import InvalidSetting
from ray_agents.ports import Runtime
from ray_agents.settings import Settings
from serve import problem, routes
from serve.costs import Reader, costs
from serve.guards import BearerToken, BodyLimit, known_parts_only
from serve.imports import imports

RuntimeFactory = Callable[[Settings], Runtime]

DESCRIPTION = """Entities with an append-only log each: spawn, send, ask, observe.

Every failure is `application/problem+json`; its `type` names the error.
"""


def create_app(runtime_factory: RuntimeFactory, settings: Settings) -> FastAPI:
    """Build the API; its lifespan enters the runtime that ``runtime_factory`` makes.

    Raises:
        InvalidSetting: other machines are to be answered, and there is no token.
    """
    if settings.token is None and not settings.on_loopback:
        raise InvalidSetting(
            f"RAY_AGENTS_HTTP_HOST={settings.http_host!r} answers other machines, which takes a "
            "token: set RAY_AGENTS_TOKEN or RAY_AGENTS_TOKEN_FILE",
            variable="RAY_AGENTS_HTTP_HOST",
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with runtime_factory(settings) as runtime:
            app.state.runtime = runtime
            yield

    app = FastAPI(
        title="ray-agents control API",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=problem.TOLD,
    )
    app.state.settings = settings
    app.state.costs = Reader(settings.store)
    app.include_router(routes.health)
    for router in (routes.types, routes.entities, imports, costs):
        app.include_router(router, dependencies=[Depends(known_parts_only)])
    problem.install(app)
    # The last one added is the outermost: a request without the token has no body read.
    app.add_middleware(BodyLimit, bytes_max=settings.body_bytes_max)
    app.add_middleware(BearerToken, token=settings.token)
    app.add_middleware(problem.Unexpected)
    return app
