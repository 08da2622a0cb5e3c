"""The log: Arrow IPC segments on shared storage; this folder is the only one that touches it."""
