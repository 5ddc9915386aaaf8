"""COPY: data that passes between clients and PostgreSQL while a request runs.

A COPY is a request like others: it waits, runs on a backend, ends by its one final reply. In between its data passes,
from turn to turn and a piece at a time. Whoever sends waits for whoever receives: at most COPY_WINDOW bytes are on
their way between client and broker, and as many between broker and PostgreSQL. So neither a slow server nor a slow
client makes the broker keep more.

Nobody can interrupt PostgreSQL by a cancel while it waits for data, or for somebody to take some. So with the cancel of
a COPY its data ends by an error, and what PostgreSQL still sends is read and thrown away.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

from collections.abc import Mapping

from client.wire.limits import COPY_WINDOW
from client.wire.messages import CopyBegun, CopyEnd, CopyIn, CopyOut, CopyTaken, CopyWanted
from poold.core.agenda import Agenda
from poold.core.effects import Drop, EndFeed, Feed, Hold, Tell
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.request import Request
from poold.core.records.transfer import Transfer
from poold.core.state import RUNNING
from poold.core.work.query import MAX_MOVES

# From so many bytes on that the client has not taken, nothing more is read for it from PostgreSQL.
HOLD_FROM = COPY_WINDOW // 2


class Copying:
    """The transfers under way. Each fact is about the first request of a backend, or about one of a client's."""

    def __init__(self, agenda: Agenda, backends: Mapping[int, Backend], clients: Mapping[int, Client]) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self._backends = backends
        self._clients = clients

    # Facts about clients.

    def message(self, key: int, message: CopyIn | CopyEnd | CopyTaken, now: float) -> None:
        """A client sent data, or its end, or has taken some. It is ignored if the COPY has ended meanwhile."""
        client = self._clients.get(key)
        if client is None:
            return
        client.heard = now
        request = client.requests.get(message.request)
        if request is None or request.is_in_lane:
            return
        transfer = request.transfer
        if transfer is None or not transfer.is_begun or transfer.is_in is isinstance(message, CopyTaken):
            self._breach(key, "it sent data, or took some, of a COPY that has not begun")
        elif isinstance(message, CopyTaken):
            self._taken(request, transfer, message.size, now)
        elif transfer.is_over:
            pass
        elif isinstance(message, CopyIn):
            self._given(request, transfer, message.data, now)
        else:
            self._given_all(request, transfer, message.error, now)

    def _given(self, request: Request, transfer: Transfer, data: bytes, now: float) -> None:
        assert request.backend is not None
        transfer.pending += len(data)
        if transfer.pending > COPY_WINDOW:
            self._breach(
                request.client.key, f"it sent more than {COPY_WINDOW} bytes of a COPY that were not wanted yet"
            )
        elif data:
            self._agenda.effects.append(Feed(request.backend.number, data))
            self._rearm(request, transfer, now)

    def _given_all(self, request: Request, transfer: Transfer, error: str | None, now: float) -> None:
        assert request.backend is not None
        transfer.is_over, transfer.is_complete = True, error is None
        self._agenda.effects.append(EndFeed(request.backend.number, error))
        self._rearm(request, transfer, now)

    def _taken(self, request: Request, transfer: Transfer, size: int, now: float) -> None:
        assert request.backend is not None
        if size > transfer.pending:
            self._breach(request.client.key, f"it has taken {size} bytes of a COPY, and was sent {transfer.pending}")
            return
        transfer.pending -= size
        if transfer.is_held and transfer.pending < HOLD_FROM:
            self._hold(request.backend.number, transfer, False)
        self._rearm(request, transfer, now)

    def _breach(self, key: int, reason: str) -> None:
        """A client that does not keep the rules of the flow cannot be served: data would be lost."""
        self._agenda.effects.append(Drop(key, reason))

    # Facts about backends.

    def begun(self, number: int, now: float) -> None:
        """PostgreSQL waits for the data of the backend's COPY, or begins to send it: it cannot be run once more."""
        found = self._running(number)
        if found is None:
            return
        request, transfer = found
        transfer.is_begun = True
        request.moves = MAX_MOVES
        if request.state is RUNNING:
            self._agenda.effects.append(Tell(request.client.key, CopyBegun(request.number, transfer.is_in)))
            self._rearm(request, transfer, now)
        else:
            self.give_up(request)

    def came(self, number: int, data: bytes, now: float) -> None:
        """PostgreSQL has sent more data of the backend's COPY."""
        found = self._running(number)
        if found is None:
            return
        request, transfer = found
        if transfer.is_over:
            transfer.is_cut = True
            return
        transfer.pending += len(data)
        if not transfer.is_held and transfer.pending >= HOLD_FROM:
            self._hold(number, transfer, True)
        self._agenda.effects.append(Tell(request.client.key, CopyOut(request.number, data)))
        self._rearm(request, transfer, now)

    def fed(self, number: int, size: int, now: float) -> None:
        """The backend's connection has taken so many bytes of its COPY's data.

        They may be another COPY's, which has failed before PostgreSQL took them: this one's are fed when it has begun.
        """
        found = self._running(number)
        if found is None or not found[1].is_begun:
            return
        request, transfer = found
        transfer.pending -= size
        if not transfer.is_over:
            self._agenda.effects.append(Tell(request.client.key, CopyWanted(request.number, size)))
            self._rearm(request, transfer, now)

    def ended(self, backend: Backend, transfer: Transfer) -> None:
        """The backend's COPY has ended: read from it again, as the last of its data may have come with its end.

        Its client may be told later, and give data until then, which is ignored.
        """
        transfer.is_over = transfer.is_over or transfer.is_begun
        if transfer.is_held:
            self._hold(backend.number, transfer, False)

    def _running(self, number: int) -> tuple[Request, Transfer] | None:
        """Return the request that the backend runs, if that is a COPY, with its transfer."""
        backend = self._backends.get(number)
        request = None if backend is None else backend.request
        transfer = None if request is None else request.transfer
        return None if request is None or transfer is None else (request, transfer)

    # Cancels and deadlines.

    def give_up(self, request: Request) -> None:
        """The request is cancelled: end its data, as PostgreSQL takes no cancel while it waits for its client."""
        transfer, backend = request.transfer, request.backend
        if transfer is None or backend is None or not transfer.is_begun or transfer.is_over:
            return
        transfer.is_over = True
        if transfer.is_in:
            self._agenda.effects.append(EndFeed(backend.number, request.reason or "canceled"))
        elif transfer.is_held:
            self._hold(backend.number, transfer, False)

    def idle_until(self, request: Request) -> float | None:
        """When the request has waited too long for its client, by its group's idle_in_transaction_timeout.

        None if it does not wait for its client, or may wait for ever.
        """
        transfer, limit = request.transfer, request.group.config.idle_in_transaction_timeout
        if transfer is None or not transfer.is_begun or transfer.is_over or not limit:
            return None
        waits = transfer.is_held if not transfer.is_in else not transfer.pending
        return transfer.moved + limit if waits else None

    def may_wait_longer(self, request: Request, now: float) -> bool:
        """Whether the request's time has come by a limit that its group has no more, or has raised: wait on, then."""
        idle_until = self.idle_until(request)
        if request.transfer is None or (request.deadline is not None and now >= request.deadline):
            return False
        if (idle_until is not None and idle_until <= now) or (idle_until is None and request.deadline is not None):
            return False
        self._set_time(request)
        return True

    def _rearm(self, request: Request, transfer: Transfer, now: float) -> None:
        """Data has passed: set the time at which the client, or the request, is late."""
        transfer.moved = now
        if request.state is RUNNING:
            self._set_time(request)

    def _set_time(self, request: Request) -> None:
        due = [when for when in (request.deadline, self.idle_until(request)) if when is not None]
        if due:
            self._timers.set(request, min(due))
        else:
            self._timers.clear(request)

    def _hold(self, number: int, transfer: Transfer, is_held: bool) -> None:
        transfer.is_held = is_held
        self._agenda.effects.append(Hold(number, is_held))
