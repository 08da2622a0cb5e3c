"""An S3 server of moto's on loopback, with a bucket for each test, and faults by script.

What it is worth: moto speaks S3's protocol, so obstore's requests, answers and errors are the real
ones. It is no S3: its conditional put looks first and writes then, in threads (of 40 rounds with
100 racing puts each, 2 had two winners when threads took turns every 10 µs), so here a lock makes
puts take turns. Whether S3 itself, Google's or anybody else's server keeps what it promises is
not tested by any test that uses this.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from io import BytesIO
from itertools import count
from socket import SHUT_RDWR
from typing import Any, Self
from urllib.request import Request, urlopen

from ray_agents.log.bucket import Bucket, Patience, open_bucket
from ray_agents.log.objects import ObjectBlobs

POLL_SECONDS = 0.02
LOOPBACK = "127.0.0.1"
SHORT = Patience(
    connect=timedelta(seconds=1),
    reply=timedelta(milliseconds=400),
    transfer=timedelta(seconds=2),
    retries=2,
    retry_within=timedelta(seconds=1),
    first_pause=timedelta(milliseconds=5),
    longest_pause=timedelta(milliseconds=20),
    settle_within=timedelta(seconds=2),
)


class Fate(Enum):
    """What becomes of a request."""

    SERVED = "served"
    FAILED = "500, and nothing is done"
    BUSY = "503, and nothing is done"
    FORBIDDEN = "403"
    FULL = "507"
    LOST = "never answered, and nothing is done"
    REPLY_LOST = "done, and the connection breaks"
    FAILED_AFTERWARDS = "done, and answered with 500"
    SLOW = "done, and answered too late"
    UNCONDITIONAL = "served as if there were no condition"


STATUS = {
    Fate.FAILED: "500 Internal Server Error",
    Fate.FAILED_AFTERWARDS: "500 Internal Server Error",
    Fate.BUSY: "503 Slow Down",
    Fate.FORBIDDEN: "403 Forbidden",
    Fate.FULL: "507 Insufficient Storage",
}
Script = Callable[[str, str], Fate]  # by method and path


def serve_all(_method: str, _path: str) -> Fate:
    """No faults."""
    return Fate.SERVED


def _quiet() -> Any:
    """The class of what handles a request."""
    from werkzeug.serving import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as S3 does

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    return Quiet


class BucketServer:
    """The server; ``script`` decides about each request, ``requests`` counts them by method."""

    def __init__(self) -> None:
        # Imported by who needs a server: all tests are collected, most of them without one.
        import moto.moto_server.werkzeug_app as app  # pyright: ignore[reportMissingTypeStubs]
        from werkzeug.serving import make_server

        moto: Any = app
        self._app: Any = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._server = make_server(
            LOOPBACK, 0, self._serve, threaded=True, request_handler=_quiet()
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True
        )
        self._puts = threading.Lock()
        self._names = count(1)
        self._ended = threading.Event()
        self.url = f"http://{LOOPBACK}:{self._server.port}"
        self.script: Script = serve_all
        self.requests: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environ(self) -> dict[str, str]:
        """What an SDK that is to find this server finds in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def heal(self) -> None:
        """No more faults."""
        self.script = serve_all
        self.requests.clear()

    def new_store(self) -> str:
        """The URL of a store in a bucket of its own, which is empty."""
        bucket = f"bucket-{next(self._names)}"
        request = Request(f"{self.url}/{bucket}", method="PUT")  # noqa: S310 - it is our own
        with urlopen(request, timeout=10):  # noqa: S310 - the same
            return f"s3://{bucket}/a/prefix"

    def bucket(self, url: str, *, patience: Patience = SHORT) -> Bucket:
        """The bucket of a URL, with little patience; the environment must name this server."""
        return open_bucket(url, os.environ, patience=patience)

    def blobs(self, url: str | None = None, *, patience: Patience = SHORT) -> ObjectBlobs:
        """Blobs of their own, in a new bucket if none is named."""
        return ObjectBlobs(self.bucket(url or self.new_store(), patience=patience))

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests[method] += 1
        fate = self.script(method, path)
        status = STATUS.get(fate)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if status is not None and fate is not Fate.FAILED_AFTERWARDS:
            start_response(status, [("Content-Length", "0")])
            return []
        if fate is Fate.LOST:
            return self._hang_up(environ)
        if fate is Fate.UNCONDITIONAL:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        environ["wsgi.input"] = BytesIO(body)
        return self._finish(fate, environ, start_response)

    def _finish(self, fate: Fate, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if fate in (Fate.SERVED, Fate.UNCONDITIONAL):
            return self._answer(environ, start_response)
        b"".join(self._answer(environ, _unheard))
        if fate is Fate.SLOW:
            self._ended.wait(3 * SHORT.reply.total_seconds())
        elif fate is Fate.FAILED_AFTERWARDS:
            start_response(STATUS[fate], [("Content-Length", "0")])
            return []
        return self._hang_up(environ)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return self._app(environ, start_response)
        with self._puts:
            return self._app(environ, start_response)

    def _hang_up(self, environ: dict[str, Any]) -> Iterable[bytes]:
        with suppress(OSError):
            environ["werkzeug.socket"].shutdown(SHUT_RDWR)
        raise ConnectionAbortedError


def _unheard(_status: str, _headers: list[tuple[str, str]], _error: Any = None) -> Any:
    """Where an answer begins that nobody will get."""
    return _unheard
