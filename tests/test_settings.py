"""Settings are read from a mapping; what does not fit is named."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ray_agents.errors import InvalidSetting
from ray_agents.per_model import PerModel
from ray_agents.settings import Settings, from_env, to_env


def test_an_empty_environment_gives_the_defaults() -> None:
    assert from_env({}) == Settings()
    assert Settings().http_host == "127.0.0.1"


def test_each_kind_of_value_is_read() -> None:
    settings = from_env(
        {
            "RAY_AGENTS_STORE": "s3://bucket/agents",
            "RAY_AGENTS_HTTP_PORT": " 5000 ",
            "RAY_AGENTS_HEARTBEAT": "2.5",
            "RAY_AGENTS_REGISTER_BY_VALUE": "yes",
            "ANTHROPIC_API_KEY": "sk",
            "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1",
            "PATH": "/bin",
        }
    )
    assert (settings.store, settings.http_port) == ("s3://bucket/agents", 5000)
    assert settings.heartbeat == timedelta(seconds=2.5)
    assert (settings.register_by_value, settings.anthropic_api_key) == (True, "sk")
    assert settings.openai_base_url == "http://127.0.0.1:8000/v1"


def test_a_limit_may_be_for_some_models() -> None:
    settings = from_env({"RAY_AGENTS_MODEL_CALLS_MAX": "100, claude-opus-5=20"})
    assert settings.model_calls_max == PerModel(100, {"claude-opus-5": 20})
    assert from_env(to_env(settings)) == settings


def test_an_empty_variable_counts_as_absent() -> None:
    assert from_env({"RAY_AGENTS_TOKEN": "", "RAY_AGENTS_POOL_SIZE": " "}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RAY_AGENTS_HTTP_PORT", "http"),
        ("RAY_AGENTS_HTTP_PORT", "0"),
        ("RAY_AGENTS_HTTP_PORT", "65536"),
        ("RAY_AGENTS_HEARTBEAT", "soon"),
        ("RAY_AGENTS_HEARTBEAT", "inf"),
        ("RAY_AGENTS_HEARTBEAT", "nan"),
        ("RAY_AGENTS_REGISTER_BY_VALUE", "maybe"),
        ("RAY_AGENTS_POOL_SIZE", "-1"),
        ("RAY_AGENTS_PACKED_HOSTS", "1.5"),
        ("RAY_AGENTS_MODEL_CALLS_MAX", "claude-opus-5=0"),
        ("RAY_AGENTS_MODEL_CALLS_START", "0"),
    ],
)
def test_a_value_that_does_not_fit_is_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=variable) as caught:
        from_env({variable: value})
    assert caught.value.facts == {"variable": variable}


def test_a_misspelled_variable_is_an_error_that_knows_better() -> None:
    with pytest.raises(InvalidSetting, match="did you mean RAY_AGENTS_HTTP_PORT"):
        from_env({"RAY_AGENTS_HTTP_PROT": "1"})


def test_a_pool_larger_than_its_cap_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="RAY_AGENTS_POOL_MAX"):
        Settings(pool_size=3, pool_max=2)


def test_secrets_are_not_shown() -> None:
    shown = repr(Settings(token="hush", anthropic_api_key="hush"))
    assert "hush" not in shown


@given(
    store=some.text("abc/:.", min_size=1),
    port=some.integers(1, 65_535),
    heartbeat=some.timedeltas(timedelta(seconds=1), timedelta(minutes=10)),
    by_value=some.booleans(),
)
def test_what_is_written_is_read_back(
    store: str, port: int, heartbeat: timedelta, *, by_value: bool
) -> None:
    settings = Settings(
        store=store, http_port=port, heartbeat=heartbeat, register_by_value=by_value
    )
    assert from_env(to_env(settings)) == settings
