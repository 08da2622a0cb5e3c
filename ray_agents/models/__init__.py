"""Language models behind the seam of :mod:`ray_agents.model`: Anthropic's, and scripted ones."""
