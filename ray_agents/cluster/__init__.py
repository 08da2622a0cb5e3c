"""Where entities live: hosts, who owns what, and how a call finds its entity."""
