"""Which model an agent gets."""

from ray_agents.agent import AgentConfig
from ray_agents.model import ModelSettings
from ray_agents.models.choice import chooser


def test_test_responses_replace_the_model() -> None:
    model_for = chooser(ModelSettings())
    assert model_for(AgentConfig(test_responses=["hi"])).provider == "scripted"
    assert model_for(AgentConfig()).provider == "anthropic"


def test_settings_are_read_from_the_mapping_that_is_handed_in() -> None:
    settings = ModelSettings.from_env({"ANTHROPIC_BASE_URL": "http://x", "ANTHROPIC_API_KEY": ""})
    assert (settings.base_url, settings.api_key, settings.usable) == ("http://x", None, True)
    assert not ModelSettings.from_env({}).usable
