"""An S3 server of moto's on loopback, with a bucket for each test, and faults by script.

What it is worth: moto speaks S3's protocol, so obstore's requests, answers and errors are the real
ones. It is no S3: its conditional put looks first and writes then, in threads (of 40 rounds with
100 racing puts each, 2 had two winners when threads took turns every 10 µs), so here a lock makes
puts take turns. Whether S3 itself, Google's or anybody else's server keeps what it promises is
not tested by any test that uses this.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from itertools import count
from socket import SHUT_RDWR
from typing import Any, Self
from urllib.request import Request, urlopen

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from ray_agents.log.bucket import Bucket, Patience, open_bucket
from ray_agents.log.objects import ObjectBlobs

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


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@dataclass(slots=True)
class Endpoint:
    """Where the server is, as environment variables of the SDKs."""

    url: str

    @property
    def environ(self) -> dict[str, str]:
        """To be set where a store in it is opened."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
