"""pyarrow as the type checker sees it: untyped, so everything that comes out of it is Any.

pyarrow ships no types. One module takes that in, so that no other needs an exemption; it may go
when pyarrow ships a ``py.typed``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

pa: Any = import_module("pyarrow")
pc: Any = import_module("pyarrow.compute")
ipc: Any = import_module("pyarrow.ipc")

Batch = Any  # pyarrow.RecordBatch
