"""The broker's core with a client in good order, and a server, or who is in between, that says anything."""

from corpus import TALKS
from parts import split_all
from stranger import World

from poold.core import effects
from poold.core.facts import Loss
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

_LIMIT = 20_000


class _Cheated(World):
    """Each unit is answered by the next of these pieces: where that is empty, in good order; the last ends it all."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._wires: dict[int, Wire] = {}

    def carry_out(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Close):
            self._wires.pop(effect.backend, None)
        super().carry_out(effect)

    def execute(self, backend: int, unit: effects.Unit) -> None:
        """As poold.postgres.backends does it: send, and hand what comes to the core."""
        wire = self._wires.setdefault(backend, Wire(_LIMIT, ParameterStatus(lambda _: "on")))
        piece = self._pieces.pop(0) if self._pieces else None
        if piece == b"" and not wire.units:
            super().execute(backend, unit)
            return
        wire.send(unit)
        error = "server closed the connection unexpectedly" if piece is None else ""
        try:
            wire.received(piece or b"")
        except WireError as wrong:
            error = str(wrong)
        for done in wire.completed:
            self.broker.completed(backend, done, self.now)
        if error and self._wires.pop(backend, None) is not None:
            last = wire.last_failure()
            self.broker.lost(backend, Loss(wire.fatal or error, 0, wire.partial(), last), self.now)


def cheat(data: bytes) -> str:
    """The first byte chooses what the client asks, the rest is what the server says to it."""
    world = _Cheated(split_all(data[1:]))
    for frame in split_all(TALKS[data[0] % len(TALKS)]) if data else ():
        world.say(frame)
    return world.end()
