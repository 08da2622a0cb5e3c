"""The control API put on a running Ray: Serve started on our port, ``serve/`` deployed."""

from __future__ import annotations

import importlib
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ray_agents.cluster.head import PACKAGE_ROOT
from ray_agents.cluster.sockets import LOOPBACK, require_free
from ray_agents.cluster.untyped import import_serve, ray_errors
from ray_agents.errors import RuntimeUnavailable
from ray_agents.settings import Settings

APPLICATION = "ray-agents"
IMPORT_PATH = "serve.app:app"
_POLL = timedelta(milliseconds=50)


def deploy_serve(settings: Settings, *, import_path: str = IMPORT_PATH) -> str:
    """Deploy the control API on the Ray this process has joined; its URL, once it answers.

    The replicas read their settings from their environment, which on a local runtime they have
    from the head (``head.settings_environment``). ``serve/`` is not in the wheel: a local runtime
    imports it from the clone this package runs from; on a cluster of several machines join with
    ``runtime_env={"working_dir": <the clone>}``, which Serve hands on to its replicas.

    Raises:
        PortTaken: another process listens on the HTTP port.
        RuntimeUnavailable: there is no ``serve/`` beside the package, or Serve did not start.
    """
    require_free(settings.http_host, settings.http_port)
    url = url_of(settings)
    application = _application(import_path)
    serve = import_serve()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.http_host, "port": settings.http_port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        serve.run(application, name=APPLICATION, route_prefix="/")
    except ray_errors() as error:
        raise RuntimeUnavailable(f"Ray Serve did not start the control API: {error}") from error
    _await_answer(url, within=settings.start_deadline)
    return url


def url_of(settings: Settings) -> str:
    """Where a client on this machine finds the control API."""
    host = LOOPBACK if settings.http_host in ("0.0.0.0", "::") else settings.http_host  # noqa: S104
    return (
        f"http://[{host}]:{settings.http_port}"
        if ":" in host
        else f"http://{host}:{settings.http_port}"
    )


def _await_answer(url: str, *, within: timedelta) -> None:
    """Serve says that replicas are ready; HAProxy learns of them a moment later."""
    client = httpx.Client(base_url=url, trust_env=False, timeout=1)
    attempts = Retrying(
        stop=stop_after_delay(within),
        wait=wait_fixed(_POLL),
        retry=retry_if_exception_type(httpx.HTTPError),
        reraise=True,
    )
    with client:
        try:
            attempts(lambda: client.get("/healthz").raise_for_status())
        except httpx.HTTPError as error:
            raise RuntimeUnavailable(f"{url!r} does not answer after its start: {error}") from error


def withdraw_serve() -> None:
    """Shut Serve down on the Ray this process has joined."""
    import_serve().shutdown()


def serve_root() -> Path:
    """The directory that holds our ``serve`` package.

    Raises:
        RuntimeUnavailable: it is not beside the package; the message says how to get it there.
    """
    for root in (PACKAGE_ROOT, Path.cwd()):
        if (root / "serve" / "app.py").is_file() and (root / "serve" / "routes.py").is_file():
            return root
    raise RuntimeUnavailable(
        f"the control API's package `serve` is neither in {str(PACKAGE_ROOT)!r} nor in "
        f"{str(Path.cwd())!r}; it is not part of "
        "the wheel: clone the repository and `pip install -e .`, or start in the clone's directory"
    )


def _application(import_path: str) -> Any:
    """The bound Serve application; typed Any because Serve exports no type for it."""
    root = str(serve_root())
    if root not in sys.path:
        sys.path.insert(0, root)
    module, _, name = import_path.partition(":")
    return getattr(importlib.import_module(module), name)
