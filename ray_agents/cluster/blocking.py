"""What makes an async client a blocking one: a loop in a thread, and an end in any case."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Generic, Self, TypeVar

from ray_agents.cluster.loopthread import LoopThread, before_exit
from ray_agents.errors import RuntimeUnavailable

T = TypeVar("T")
AnyClient = TypeVar("AnyClient", bound=AbstractAsyncContextManager[Any])

_unclosed: set[Blocking[Any]] = set()


def _close_all() -> None:
    for client in list(_unclosed):
        client.close()


before_exit(_close_all)


class Blocking(Generic[AnyClient]):
    """Does the work of ``client``, which it enters and leaves, on a loop in a thread of its own."""

    def __init__(self, client: AnyClient, name: str) -> None:
        self._thread = LoopThread(name)
        self._client = client
        self._closed = False
        _unclosed.add(self)
        try:
            self._do(client.__aenter__())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; twice is harmless. A runtime embedded in this process seals and ends."""
        if self._closed:
            return
        try:
            self._do(self._client.__aexit__(None, None, None))
        finally:
            self._closed = True
            _unclosed.discard(self)
            self._thread.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """The answer of ``work``, done on the loop; Ctrl-C cancels it and waits for its end."""
        if self._closed:
            work.close()
            raise closed()
        return self._thread.do(work)

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """What an async iterator gives; closing this one ends it."""
        source: Any = items
        try:
            while True:
                try:
                    yield self._do(anext(source))
                except StopAsyncIteration:
                    return
        finally:
            self._end(source)

    def _end(self, source: Any) -> None:
        """Close an iterator; the garbage collector may ask for it on the loop's own thread."""
        if self._closed:
            return  # closing the client has closed it
        if self._thread.is_here:
            self._thread.loop.create_task(_close(source))
        else:
            self._do(_close(source))


async def _close(source: Any) -> None:
    async with aclosing(source):
        pass


def closed() -> RuntimeUnavailable:
    """The error for a client that was used after its end."""
    return RuntimeUnavailable("this client is closed; connect() gives a new one")
