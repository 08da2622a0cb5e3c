"""ray-agents: the durable runtime for long-lived AI agents, on Ray."""
