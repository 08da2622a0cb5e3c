"""The control API: FastAPI on Ray Serve, in front of any Runtime."""
