"""What the lane keeps of a client's connection, to its end."""

import gc
from types import SimpleNamespace

from poold.clients.ledger import Ledger


def test_lines_are_collected_with_the_memory_that_they_write_to() -> None:
    from poold.lane.lines import Line

    for _ in range(3):
        ledger = Ledger()
        entries = [ledger.enter(key) for key in range(1, 6)]
        for entry in entries:
            assert entry is not None
            client = SimpleNamespace(process=None, requests={}, heard=0.0, begun=entry.begun, entry=entry)
            assert Line(1, None, client).client.line.client is client
        ledger.close()
        del ledger, entries, entry, client
        assert gc.collect() > 0
