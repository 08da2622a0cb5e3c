from __future__ import annotations
import time
import pytest
from datetime import timedelta
from tests.cluster.rig import *
pytestmark = pytest.mark.ray

def test_it_runs(rig, client):
    for kind in ("note","lone"):
        t=time.time()
        client.spawn(f"/{kind}/a")
        r=client.ask(f"/{kind}/a", {}, within=timedelta(seconds=20))
        print(kind, r.value, time.time()-t)
    print([ (p.pid,title_of(p)) for p in rig.processes()])
    print(rig.log("/lone/a"))
    print([e.type for e in rig.log('/lone/a')])
