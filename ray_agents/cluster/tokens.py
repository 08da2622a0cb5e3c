"""The token of an installation: one secret file that only its owner can read.

Ray's own token and the control API's bearer token are the same file: who holds it may do
everything in either case, since Ray runs any code it is given.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ray_agents.errors import InvalidSetting, StoreUnavailable
from ray_agents.settings import Settings

TOKEN_BYTES = 32
PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def private_file(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` is at no moment readable by others, nor half written.

    Raises:
        StoreUnavailable: the file cannot be written; the message names it.
    """
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(handle, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        half.replace(path)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot write {str(path)!r}: {error.strerror}; make its directory writable",
            path=str(path),
        ) from error


def ensure_token(path: Path) -> str:
    """The token in ``path``, made if there is none, with its mode narrowed to 0600.

    Raises:
        StoreUnavailable: the file cannot be read or written.
    """
    if not path.exists():
        private_file(path, secrets.token_hex(TOKEN_BYTES))
    try:
        path.chmod(PRIVATE_FILE)
        token = path.read_text().strip()
    except OSError as error:
        raise StoreUnavailable(
            f"cannot read the token file {str(path)!r}: {error.strerror}", path=str(path)
        ) from error
    if not token:
        raise StoreUnavailable(
            f"the token file {str(path)!r} is empty; delete it and start again", path=str(path)
        )
    return token


def token_of(settings: Settings) -> str | None:
    """The bearer token that ``settings`` name, read from its file if need be.

    Raises:
        InvalidSetting: ``RAY_AGENTS_TOKEN_FILE`` names a file that cannot be read, or the token is
            none: an empty one would let everybody in, and a header carries printable ASCII only.
    """
    if settings.token is not None:
        return _usable(settings.token, variable="RAY_AGENTS_TOKEN")
    if settings.token_file is None:
        return None
    try:
        text = Path(settings.token_file).read_text(errors="replace")
    except OSError as error:
        raise InvalidSetting(
            f"RAY_AGENTS_TOKEN_FILE={settings.token_file!r} cannot be read: {error.strerror}",
            variable="RAY_AGENTS_TOKEN_FILE",
        ) from error
    return _usable(text.strip(), variable="RAY_AGENTS_TOKEN_FILE")


def _usable(token: str, *, variable: str) -> str:
    if token and token.isascii() and token.isprintable() and token == token.strip():
        return token
    message = (
        f"{variable} gives no token that a header can carry: write printable ASCII, at least one "
        "character, without space around it"
    )
    raise InvalidSetting(message, variable=variable)
