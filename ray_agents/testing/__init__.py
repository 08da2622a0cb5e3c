"""Test tools, shipped: twins of the seams, conformance suites, a stand-in Messages API server."""
