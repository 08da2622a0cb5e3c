"""Which model an agent gets: its test responses, or else Claude."""

from __future__ import annotations

from ray_agents.agent import AgentConfig
from ray_agents.model import Model, ModelSettings
from ray_agents.models.anthropic import AnthropicModel
from ray_agents.models.scripted import scripted


def model_for(agent: AgentConfig, settings: ModelSettings) -> Model:
    """The model that an agent's runs ask."""
    if agent.test_responses is not None:
        return scripted(agent.test_responses)
    return AnthropicModel(settings)
