"""Contact with a control API: the client's end of the HTTP door, over httpx."""
