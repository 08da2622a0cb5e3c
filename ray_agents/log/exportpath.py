"""An export by its path on this machine: written whole or not at all, read piece by piece."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path

from ray_agents.errors import StoreUnavailable
from ray_agents.log.export import CHUNK_BYTES, ExportFile
from ray_agents.views import ExportView

UNFINISHED = ".part"


async def save(chunks: AsyncIterator[bytes], path: Path) -> ExportView:
    """Write an export to ``path``, over what is there, once it is whole, verified and synced.

    Raises:
        CorruptLog: it did not arrive as it was sent.
        StoreUnavailable: it cannot be written there.
    """
    part = path.with_name(path.name + UNFINISHED)
    try:
        with part.open("w+b") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            view = await asyncio.to_thread(_finish, file.fileno(), part, path)
        await asyncio.to_thread(os.replace, part, path)
    except OSError as error:
        message = f"{str(path)!r} cannot be written ({error.strerror}); choose another place"
        raise StoreUnavailable(message, path=str(path)) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return view


def _finish(descriptor: int, part: Path, path: Path) -> ExportView:
    with part.open("rb") as written:
        export = ExportFile(written, name=str(path))
    os.fsync(descriptor)
    return ExportView(
        file=str(path),
        bytes=part.stat().st_size,
        digest=export.digest,
        addresses=tuple(log.address for log in export.logs),
    )


async def pieces(path: Path) -> AsyncGenerator[bytes, None]:
    """The content of an export that was saved.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield data
    except OSError as error:
        message = f"{str(path)!r} cannot be read ({error.strerror}); name the exported file"
        raise StoreUnavailable(message, path=str(path)) from error
