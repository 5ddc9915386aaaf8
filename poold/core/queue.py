"""The requests of one group that wait for a backend, first come, first served.

Leaving from the middle (a client that died, a deadline that passed) is O(1).
"""

from collections import OrderedDict

from poold.core.request import Request


class Queue:
    """Waiting requests: enter by push or push_front, leave by pop when a backend is free for them, or by discard."""

    def __init__(self) -> None:
        # OrderedDict, as a plain dict looks for its first entry in O(n) after deletions at the front.
        self.waiting: OrderedDict[Request, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.waiting)

    def push(self, request: Request) -> None:
        """Add the request at the end."""
        self.waiting[request] = None

    def push_front(self, request: Request) -> None:
        """Add a request that had its turn before."""
        self.waiting[request] = None
        self.waiting.move_to_end(request, last=False)

    def pop(self) -> Request:
        """Take the request whose turn it is. The queue must not be empty."""
        return self.waiting.popitem(last=False)[0]

    def discard(self, request: Request) -> None:
        """Take this request out, if it is here."""
        self.waiting.pop(request, None)

    def oldest(self) -> Request | None:
        """The request that has waited longest, None where nobody waits."""
        return next(iter(self.waiting), None)
