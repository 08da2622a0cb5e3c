"""A conditional put says truly whether it was made, whatever becomes of requests and replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError
from obstore.store import MemoryStore, ObjectStore

from ray_agents.errors import StoreFull, StoreUnavailable
from ray_agents.log import bucket as buckets
from ray_agents.log.bucket import Bucket, Patience

Do = Callable[[], object]


def served(do: Do) -> object:
    return do()


def lost(_do: Do) -> object:
    raise GenericError("timed out")


def reply_lost(do: Do) -> object:
    do()
    raise GenericError("connection closed")


def tried_twice(do: Do) -> object:
    """The client's own second attempt, after the reply to the first one was lost."""
    do()
    return do()


def in_conflict(_do: Do) -> object:
    """S3 answers 409, as for a key that is taken, while another request for it is under way."""
    raise AlreadyExistsError("conflict")


def forbidden(_do: Do) -> object:
    raise PermissionDeniedError("403")


def full(_do: Do) -> object:
    raise GenericError("Server returned non-2xx status code: 507 Insufficient Storage")


class TroubledStore:
    """A store in memory whose next puts, and reads, meet with what a test says."""

    def __init__(self, *puts: Callable[[Do], object]) -> None:
        self.inner = MemoryStore()
        self.puts: Iterator[Callable[[Do], object]] = iter(puts)
        self.gets: Iterator[Callable[[Do], object]] = iter(())
        self.tries = 0

    def put(self, *args: Any, **kwargs: Any) -> object:
        self.tries += 1
        return next(self.puts, served)(lambda: self.inner.put(*args, **kwargs))

    def get(self, *args: Any, **kwargs: Any) -> object:
        return next(self.gets, served)(lambda: self.inner.get(*args, **kwargs))


def bucket_of(store: TroubledStore, patience: Patience | None = None) -> Bucket:
    return Bucket(cast("ObjectStore", store), url="s3://b", patience=patience)


@pytest.mark.parametrize(
    "troubles",
    [
        [],
        [reply_lost],
        [tried_twice],
        [lost],
        [lost, reply_lost],
        [lost, tried_twice],
        [in_conflict],
        [in_conflict, lost],
    ],
)
def test_a_put_that_was_made_says_so(troubles: list[Callable[[Do], object]]) -> None:
    bucket = bucket_of(TroubledStore(*troubles))
    assert bucket.put_new("k", b"mine")
    assert bucket.get("k") == b"mine"


@pytest.mark.parametrize("trouble", [served, lost, in_conflict, reply_lost])
def test_a_put_to_a_key_that_is_taken_says_so_even_with_the_same_content(
    trouble: Callable[[Do], object],
) -> None:
    store = TroubledStore(served, trouble)
    bucket = bucket_of(store)
    assert bucket.put_new("k", b"the same")
    assert not bucket.put_new("k", b"the same")


def test_a_put_whose_outcome_cannot_be_found_out_is_an_error_after_a_bounded_number_of_tries() -> (
    None
):
    store = TroubledStore(*[lost] * 100)
    with pytest.raises(StoreUnavailable, match="s3://b/k"):
        bucket_of(store).put_new("k", b"")
    assert store.tries == buckets.PUT_TRIES_MAX


def test_it_is_not_tried_again_when_the_time_for_it_is_over() -> None:
    store = TroubledStore(*[lost] * 100)
    with pytest.raises(StoreUnavailable):
        bucket_of(store, Patience(settle_within=timedelta(0))).put_new("k", b"")
    assert store.tries == 1


def test_a_look_that_fails_is_no_answer() -> None:
    store = TroubledStore(reply_lost)
    store.gets = iter([lost])
    assert bucket_of(store).put_new("k", b"")
    assert store.tries == 2


@pytest.mark.parametrize(("trouble", "error"), [(forbidden, StoreUnavailable), (full, StoreFull)])
def test_a_refusal_is_final(trouble: Callable[[Do], object], error: type[Exception]) -> None:
    store = TroubledStore(trouble)
    with pytest.raises(error, match="s3://b/k") as raised:
        bucket_of(store).put_new("k", b"")
    assert type(raised.value) is error
    assert store.tries == 1


def test_of_a_hundred_racing_puts_one_wins() -> None:
    bucket, go = Bucket(MemoryStore(), url="memory://b"), threading.Barrier(100)
    won: list[int] = []

    def race(number: int) -> None:
        go.wait()
        if bucket.put_new("k", b"%d" % number):
            won.append(number)

    racers = [threading.Thread(target=race, args=(number,)) for number in range(100)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(won) == 1
    assert bucket.get("k") == b"%d" % won[0]
