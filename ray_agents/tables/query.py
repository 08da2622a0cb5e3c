"""``query``: SQL over the fleet, by DuckDB.

The rows that the views of a statement need are scanned once into DuckDB, so that every view of
the statement sees the same state, however often it is named; what does not fit into memory goes
to a temporary folder. A view that is not named costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

from ray_agents.errors import InvalidPayload, MissingPackage, RayAgentsError
from ray_agents.log.arrow import Batch, pa
from ray_agents.tables.fleet import Selection
from ray_agents.tables.scan import SCHEMA, OnCorrupt, Store, open_store, read_batches
from ray_agents.tables.views import INSIDE, VIEWS

_WORD = re.compile(r"\w+")


def query(store: Store, sql: str, *, on_corrupt: OnCorrupt | None = None) -> Any:
    """What DuckDB answers to ``sql``, as a ``pyarrow.Table``; empty if it is no question.

    The views are ``events``, ``runs``, ``steps``, ``tool_calls``, ``inbox`` and ``entities``; see
    :mod:`ray_agents.tables.views` for what they show. ``offset`` is a word of SQL: write it in
    double quotes. Times are in UTC. The statement runs with your own rights: it may read and
    write files.

    Args:
        store: where the logs are kept, as in ``RAY_AGENTS_STORE``.
        sql: one statement, or several; the answer is that of the last one.
        on_corrupt: as in :func:`ray_agents.scan`.

    Raises:
        CorruptLog: a log is damaged; ``facts["address"]`` says which.
        InvalidPayload: DuckDB refuses the statement.
        MissingPackage: DuckDB is not installed.
        StoreUnavailable: there is no such store, or it cannot be read.
    """
    duckdb = import_duckdb()
    blobs = open_store(store)
    with TemporaryDirectory(prefix="ray-agents-query-") as folder:
        config = {"temp_directory": folder, "autoinstall_known_extensions": "false"}
        with closing(duckdb.connect(config=config)) as database:
            database.execute("set timezone = 'UTC'")
            with _refusals():
                named = views_named_in(sql, database)
            if named:
                source = _Source(read_batches(blobs, _needed(named), on_corrupt=on_corrupt))
                _load(database, source, named)
            with _refusals():
                answer = database.sql(sql)
                return pa.table({}) if answer is None else answer.to_arrow_table()


@contextmanager
def _refusals() -> Generator[None]:
    """Turn what DuckDB says of the caller's statement into an error of ours."""
    try:
        yield
    except import_duckdb().Error as error:
        message = f"the query does not run: {error}; the views are {', '.join(VIEWS)}"
        raise InvalidPayload(message, field="sql") from error


def import_duckdb() -> Any:
    """The module ``duckdb``.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return import_module("duckdb")
    except ModuleNotFoundError as error:
        message = "queries need DuckDB: pip install 'ray-agents[query]'"
        raise MissingPackage(message, package="duckdb") from error


def views_named_in(sql: str, database: Any) -> frozenset[str]:
    """The views that a text of SQL names.

    Of a statement that DuckDB cannot list yet (it binds ``join … using``; ``pivot`` stands for
    several statements) every word counts: then a view may be read in vain, but none is missed.
    """
    names: set[str] = set()
    for statement in database.extract_statements(sql):
        try:
            names |= database.get_table_names(statement.query)
        except import_duckdb().Error:
            names |= set(_WORD.findall(statement.query))
    return frozenset(name.lower() for name in names) & VIEWS.keys()


def _needed(views: frozenset[str]) -> Selection:
    types: set[str] = set()
    for name in views:
        wanted = VIEWS[name].types
        if wanted is None:
            return Selection()
        types |= wanted
    return Selection(types=frozenset(types))


class _Source:
    """Batches on their way into DuckDB, which turns every error into one of its own."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.error: RayAgentsError | None = None

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._batches
        except RayAgentsError as error:
            self.error = error
            raise


def _load(database: Any, source: _Source, views: frozenset[str]) -> None:
    """Fill the table that the views read, and make them.

    Raises:
        RayAgentsError: the logs cannot be read.
    """
    database.register("fleet_scan", pa.RecordBatchReader.from_batches(SCHEMA, iter(source)))
    try:
        database.execute("create table fleet_rows as select * from fleet_scan")
    except import_duckdb().Error:
        if source.error is not None:
            raise source.error from None
        raise
    finally:
        database.unregister("fleet_scan")
    for definition in (*INSIDE, *(VIEWS[name].sql for name in sorted(views))):
        database.execute(definition)
