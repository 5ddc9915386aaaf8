"""The end of a session that its client gives back."""

from __future__ import annotations

from client.wire.messages import TX_NONE, Failure, Release, ResultMessage
from poold.core.deadlines import Deadlines
from poold.core.records.client import Client
from poold.core.state import RequestState
from poold.core.work import failures


class Releases(Deadlines):
    """The steps of a release."""

    def _release(self, client: Client, message: Release, now: float) -> ResultMessage | Failure:
        """The client's session is over: nothing of it goes on, and its backend is reset."""
        lease = client.leases.get(message.lease)
        if lease is None:
            client.lost_leases.pop(message.lease, None)
        elif not lease.is_session:
            text = f"lease {lease.number} is a transaction, which ends with a commit or a rollback"
            return failures.usage(text)._replace(request=message.request)
        else:
            reason = "it was released"
            for request in [each for each in client.requests.values() if each.lease is lease]:
                if request.state is RequestState.RUNNING:
                    self._cancel(request, RequestState.CANCELLED, reason, now)
                elif request.is_waiting and request.opens:
                    self._discard(request, failures.lease_lost(reason, is_session=True), now)
            self._end_lease(lease, reason, now)
        return ResultMessage(message.request, TX_NONE, "RELEASE", -1, None, b"", ())
