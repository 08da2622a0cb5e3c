"""Contact with other people's table tools: logs as Arrow tables, and DuckDB over the fleet.

``fleet`` finds the entities of a store and reads their logs as columns, ``scan`` makes one table
of them, ``views`` says what the rows mean as SQL, ``query`` alone talks to DuckDB. Nothing here
needs Ray, and nothing wakes an entity. The format itself is described in :mod:`ray_agents.log`.
"""
