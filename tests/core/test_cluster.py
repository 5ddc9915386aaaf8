"""What a process must see of its own writes, where there is nobody to ask."""

from poold.core.pools.cluster import Cluster


def test_who_was_seen_writing_once_is_not_taken_for_one_who_was_not() -> None:
    cluster = Cluster("77")
    cluster.note(100, 0.0)
    assert cluster.wanted("a reader") is None
    cluster.wrote("a writer", is_loose=False)
    cluster.assume()
    assert cluster.wanted("a reader") == 100
    assert cluster.wanted("a writer") is None, "nobody knows where its write is in the log"
    cluster.asked += 1
    cluster.located(1, 300, 300, 1.0)
    assert cluster.wanted("a writer") == 300
