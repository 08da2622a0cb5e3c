"""The switch that keeps tests from calling a model that costs money."""

import pytest

from ray_agents.errors import ModelUnavailable
from ray_agents.models.permission import check_permission, forbid_real_model_calls

REAL, LOCAL = "https://api.anthropic.com", "http://127.0.0.1:4438"
pytest_plugins = ["ray_agents.testing.plugin"]


def allowed(url: str) -> bool:
    try:
        check_permission(url, "m")
    except ModelUnavailable:
        return False
    return True


def test_it_is_set_back_at_the_end() -> None:
    with forbid_real_model_calls():
        assert (allowed(REAL), allowed(LOCAL), allowed("http://localhost")) == (False, True, True)
        with forbid_real_model_calls(forbidden=False):
            assert allowed(REAL)
        assert not allowed(REAL)
    assert allowed(REAL)


@pytest.mark.usefixtures("no_real_model_calls")
def test_it_comes_as_a_fixture() -> None:
    assert not allowed(REAL)
