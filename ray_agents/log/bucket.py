"""A bucket, or a part of one: bounded calls, our errors, and puts whose outcome is known.

Theory of operation. An object is written by one conditional put ("create": only if the key is
free) and never again, so there is nothing to overwrite and nothing to lock. What makes that safe
against lost replies: each put carries a token of its own in the object's metadata. When a put does
not answer, or answers that the key is taken (which is also what the client's own second attempt
gets when the reply to its first one was lost), the object is looked at: my token means that I
wrote it, another one that somebody else did, no object that it may be tried again. Tries and time
are bounded; a put whose outcome cannot be found out within them raises, and may still land later,
so whoever appends must never go on after that.

Time-outs are per try, and the client tries again by itself when a server answers 5xx or the
connection breaks: see :class:`Patience`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, ObjectStore, S3Store

from ray_agents.errors import OperatorError, StoreFull, StoreUnavailable

TOKEN = "ray-agents-put"  # noqa: S105 - the name of a metadata field
PUT_TRIES_MAX = 3
REASON_LENGTH_MAX = 300
LARGE_BYTES = 4 * 1024 * 1024
CONNECTION = (  # settings of the connection, which the environment gives as AWS_… or GOOGLE_…
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
)
_FULL = ("507 Insufficient Storage", "StorageFull", "QuotaExceeded")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSALS = (PermissionDeniedError, UnauthenticatedError, FileNotFoundError)
_FAILURES = (BaseError, OSError, ValueError)  # what obstore raises, by its documentation


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long calls may take.

    ``reply``: until a server answers a try, and between two pieces of an answer; up to ``retries``
    more tries follow by themselves, for ``retry_within`` at most. ``transfer`` bounds one try in
    which much is sent. No put begins anew after ``settle_within``.
    """

    connect: timedelta = timedelta(seconds=3)
    reply: timedelta = timedelta(seconds=10)
    transfer: timedelta = timedelta(minutes=5)
    retries: int = 4
    retry_within: timedelta = timedelta(seconds=10)
    first_pause: timedelta = timedelta(milliseconds=100)
    longest_pause: timedelta = timedelta(seconds=2)
    settle_within: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object of a listing: its key, and its size in bytes."""

    key: str
    size: int


class Bucket:
    """Objects below a prefix; safe for many threads. ``large`` is for puts that may take long."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        url: str,
        large: ObjectStore | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._store: Any = store
        self._large: Any = large or store
        self._settle_seconds = (patience or Patience()).settle_within.total_seconds()
        self._url = url

    def __repr__(self) -> str:
        return f"Bucket({self._url!r})"

    def named(self, key: str) -> str:
        """A key as messages name it."""
        return f"{self._url}/{key}"

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object if its key is free; whether the object that is there now is this one.

        Raises:
            StoreUnavailable: it was refused, or whether it was written cannot be found out: then
                it may still appear.
            StoreFull: there is no room for it.
        """
        token, end = uuid4().hex, time.monotonic() + self._settle_seconds
        store = self._large if len(data) > LARGE_BYTES else self._store
        for tries in range(1, PUT_TRIES_MAX + 1):
            try:
                store.put(key, data, mode="create", attributes={TOKEN: token}, use_multipart=False)
            except _FAILURES as error:
                if _is_refusal(error):
                    raise self._error(key, error) from error
                writer = self._writer_of(key)
                if writer is not None:
                    return writer == token
                if tries == PUT_TRIES_MAX or time.monotonic() > end:
                    raise self._error(key, error) from error
            else:
                break
        return True

    def _writer_of(self, key: str) -> str | None:
        """The token an object was written with; None if there is none, or that cannot be told."""
        with suppress(*_FAILURES):
            return str(self._store.get(key).attributes.get(TOKEN, ""))
        return None

    def get(self, key: str, start: int = 0) -> bytes | None:
        """An object's bytes from ``start`` on, which must be below its size; None if it is gone."""
        options = {"range": {"offset": start}} if start else {}
        with self._naming(key), suppress(FileNotFoundError):
            return bytes(self._store.get(key, options=options).bytes())
        return None

    def size(self, key: str) -> int | None:
        """An object's size in bytes; None if there is none."""
        with self._naming(key), suppress(FileNotFoundError):
            return int(self._store.head(key)["size"])
        return None

    def listed(self, folder: str, *, after: str | None = None) -> list[Stored]:
        """All objects below ``folder``, by key; only those behind the key ``after``, if given."""
        with self._naming(folder):
            found = self._store.list(folder, offset=after, chunk_size=1000).collect()
            return sorted(
                (Stored(key=each["path"], size=each["size"]) for each in found),
                key=lambda each: each.key,
            )

    def names(self, folder: str) -> set[str]:
        """The last parts of what is directly in ``folder``: objects, and what has objects below."""
        with self._naming(folder):
            found = self._store.list_with_delimiter(folder)
            keys = [each["path"] for each in found["objects"]]
            return {key.rpartition("/")[2] for key in (*keys, *found["common_prefixes"])}

    def delete(self, *keys: str) -> None:
        """Remove objects; absent ones are fine."""
        if keys:
            with self._naming(keys[0]), suppress(FileNotFoundError):
                self._store.delete(keys[0] if len(keys) == 1 else list(keys))

    @contextmanager
    def _naming(self, key: str) -> Generator[None]:
        try:
            yield
        except _FAILURES as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: Exception) -> OperatorError:
        path, reason = self.named(key), _reason(error)
        if any(mark in str(error) for mark in _FULL):
            message = f"no room for {path!r} ({reason}); free some space or raise the quota"
            return StoreFull(message, path=path, reason=reason)
        message = (
            f"{path!r} cannot be used ({reason}); check the bucket's name, the server's address "
            "and the credentials in the environment"
        )
        return StoreUnavailable(message, path=path, reason=reason)


def _check_endpoint(url: str, environ: Mapping[str, str]) -> None:
    """Say what obstore would only call an error of a builder."""
    endpoint = environ.get("AWS_ENDPOINT_URL", "")
    plain = url.startswith("s3:") and endpoint.startswith("http://")
    if plain and environ.get("AWS_ALLOW_HTTP", "").lower() not in ("1", "true", "yes", "on"):
        message = (
            f"store {url!r}: the server at {endpoint!r} is to be reached without encryption; set "
            "AWS_ALLOW_HTTP=true if that is meant"
        )
        raise StoreUnavailable(message, path=url)


def _reason(error: Exception) -> str:
    """The first line of what the client says, and the server's own code, if it gave one."""
    text = str(error)
    code = _CODE.search(text)
    first = text.partition("\n")[0].partition("<?xml")[0].rstrip(": ")[:REASON_LENGTH_MAX]
    return f"{first}: {code[1]}" if code else first


def _is_refusal(error: Exception) -> bool:
    """Whether a put has certainly not been made, and never will be."""
    return isinstance(error, _REFUSALS) or any(mark in str(error) for mark in _FULL)


def open_bucket(
    url: str, environ: Mapping[str, str], *, patience: Patience | None = None
) -> Bucket:
    """The bucket of an ``s3://bucket/prefix`` or ``gs://bucket/prefix``; nothing is sent yet.

    Endpoint, region and credentials are found by obstore itself, in the environment and where the
    cloud's machines keep them.

    Raises:
        StoreUnavailable: a setting in the environment is none.
    """
    bounds = patience or Patience()
    _check_endpoint(url, environ)
    open_store, prefix = (S3Store, "AWS_") if url.startswith("s3:") else (GCSStore, "GOOGLE_")
    given = {name: environ.get(f"{prefix}{name.upper()}") for name in CONNECTION}
    connection: dict[str, Any] = {name: text for name, text in given.items() if text}
    connection |= {"connect_timeout": bounds.connect, "timeout": bounds.transfer}
    retry: Any = {
        "max_retries": bounds.retries,
        "retry_timeout": bounds.retry_within,
        "backoff": {
            "init_backoff": bounds.first_pause,
            "max_backoff": bounds.longest_pause,
            "base": 2,
        },
    }
    quick: Any = connection | {"read_timeout": bounds.reply}
    large: Any = connection
    try:
        return Bucket(
            open_store.from_url(url, client_options=quick, retry_config=retry),
            large=open_store.from_url(url, client_options=large, retry_config=retry),
            url=url,
            patience=bounds,
        )
    except _FAILURES as error:
        message = f"store {url!r} cannot be used: {error}"
        raise StoreUnavailable(message, path=url) from error
