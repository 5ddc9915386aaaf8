"""Without the compiled modules there is no lane to test; tests/test_compiled.py says if they should be there."""

from client import compiled

collect_ignore_glob = ["*"] if compiled.load("poold.lane.lane") is None else []
