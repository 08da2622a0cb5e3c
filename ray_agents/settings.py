"""How an installation is set up: one frozen value, read from the environment at the doors only.

Every ``RAY_AGENTS_*`` variable is a field of :class:`Settings` in capitals; durations are in
seconds, sizes in bytes. The providers' ``ANTHROPIC_API_KEY``, ``ANTHROPIC_BASE_URL``,
``OPENAI_API_KEY`` and ``OPENAI_BASE_URL`` keep their own names.
A variable that is misspelled is an error, not a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from ray_agents.errors import InvalidSetting
from ray_agents.per_model import PerModel

PREFIX = "RAY_AGENTS_"
PROVIDERS = ("anthropic_", "openai_")
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the doors may decide. ``url`` and ``ray_address`` say which runtime to join.

    ``token`` is the bearer token itself, ``token_file`` where to read it; secrets are not in
    the repr. The ``model_`` limits hold for each model over the whole cluster, the same for all or
    by name; without ``model_calls_max`` as many calls go at once as the provider takes, found out
    from ``model_calls_start`` on.
    """

    store: str = "./.ray-agents"
    namespace: str = "ray-agents"
    app: str | None = None
    url: str | None = None
    ray_address: str | None = None
    http_host: str = "127.0.0.1"
    http_port: int = 4437
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    body_bytes_max: int = 2_000_000
    streams_max: int = 1_000
    heartbeat: timedelta = timedelta(seconds=15)
    register_by_value: bool = False
    pool_size: int = 2
    pool_max: int = 64
    packed_hosts: int = 2
    packed_linger: timedelta = timedelta(seconds=60)
    host_silence_max: timedelta = timedelta(seconds=10)
    blocked_loop_max: timedelta = timedelta(seconds=10)
    num_cpus: int | None = None
    object_store_bytes: int = 128 * 1024 * 1024
    model_calls_start: int = 64
    model_calls_max: PerModel | None = None
    model_requests_per_minute: PerModel | None = None
    model_tokens_per_minute: PerModel | None = None
    start_deadline: timedelta = timedelta(seconds=60)
    stop_deadline: timedelta = timedelta(seconds=20)
    anthropic_api_key: str | None = field(default=None, repr=False)
    anthropic_base_url: str | None = None
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = None

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                message = (
                    f"{variable_of(name)}={value!r} is out of range; use {least!r} to {most!r}"
                )
                raise InvalidSetting(message, variable=variable_of(name))
        if self.pool_size > self.pool_max:
            raise InvalidSetting(
                f"RAY_AGENTS_POOL_SIZE={self.pool_size!r} is more than "
                f"RAY_AGENTS_POOL_MAX={self.pool_max!r}; lower the one or raise the other",
                variable="RAY_AGENTS_POOL_SIZE",
            )

    @property
    def on_loopback(self) -> bool:
        """Whether the control API answers this machine only."""
        return self.http_host in LOOPBACK_HOSTS


_RANGES: tuple[tuple[str, Any, Any], ...] = (
    ("http_port", 1, 65_535),
    ("body_bytes_max", 1_000, 1_000_000_000),
    ("streams_max", 1, 100_000),
    ("heartbeat", timedelta(milliseconds=10), timedelta(minutes=10)),
    ("pool_size", 0, 1_000),
    ("pool_max", 1, 10_000),
    ("packed_hosts", 1, 64),
    ("packed_linger", timedelta(0), timedelta(days=1)),
    ("host_silence_max", timedelta(milliseconds=500), timedelta(hours=1)),
    ("blocked_loop_max", timedelta(seconds=1), timedelta(hours=1)),
    ("num_cpus", 1, 4_096),
    ("object_store_bytes", 80 * 1024 * 1024, 2**50),
    ("model_calls_start", 1, 10_000),
    ("start_deadline", timedelta(seconds=1), timedelta(hours=1)),
    ("stop_deadline", timedelta(seconds=1), timedelta(hours=1)),
)


def variable_of(name: str) -> str:
    """The environment variable that sets the field ``name``."""
    return name.upper() if name.startswith(PROVIDERS) else PREFIX + name.upper()


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings that ``environ`` asks for; an empty variable counts as absent.

    Raises:
        InvalidSetting: a variable does not parse, is out of range, or is not one of ours.
    """
    known = {variable_of(each.name): each for each in fields(Settings)}
    _refuse_strangers(environ, known)
    given: dict[str, Any] = {}
    for variable, each in known.items():
        if text := environ.get(variable, "").strip():
            given[each.name] = _parsed(variable, text, _PARSERS[str(each.type)])
    return Settings(**given)


def to_env(settings: Settings) -> dict[str, str]:
    """The variables from which :func:`from_env` reads ``settings`` back; defaults are left out."""
    plain = Settings()
    changed = (
        (each.name, getattr(settings, each.name))
        for each in fields(Settings)
        if getattr(settings, each.name) != getattr(plain, each.name)
    )
    return {variable_of(name): _text(value) for name, value in changed if value is not None}


def _refuse_strangers(environ: Mapping[str, str], known: Mapping[str, Any]) -> None:
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = get_close_matches(variable, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise InvalidSetting(f"{variable!r} is not a setting; {hint}", variable=variable)


def _parsed(variable: str, text: str, parser: Callable[[str], Any]) -> Any:
    try:
        return parser(text)
    except (ValueError, OverflowError) as error:
        shown = "…" if "KEY" in variable or variable.endswith("TOKEN") else repr(text)
        message = f"{variable}={shown} is not valid: {error}"
        raise InvalidSetting(message, variable=variable) from error


def _seconds(text: str) -> timedelta:
    try:
        return timedelta(seconds=float(text))
    except ValueError:
        raise ValueError("write a number of seconds, e.g. 2.5") from None


def _integer(text: str) -> int:
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise ValueError("write a whole number") from None


def _flag(text: str) -> bool:
    match text.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("write 1 or 0")


def _text(value: Any) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case timedelta():
            return str(value.total_seconds())
        case _:
            return str(value)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "str | None": str,
    "int": _integer,
    "int | None": _integer,
    "bool": _flag,
    "PerModel | None": PerModel.parse,
    "timedelta": _seconds,
}
