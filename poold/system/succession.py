"""What a broker leaves to the one that takes over from it, and the start of that process.

The new broker gets the listening socket and the claim on the address, and serves nobody yet. When it is ready it says
so; the old one then leaves the address and tells it to go on. Until then nothing has changed: either of them can give
up. If the old one ends without a word the new one goes on with what it has.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from poold.system.conversation import Conversation, Message, pair
from poold.system.early_signals import held_back_for_child
from poold.system.poller import Poller
from poold.system.signals import name_of

log = logging.getLogger(__name__)

# Seconds after which a new broker that is not ready is ended.
START_TIMEOUT = 60.0
# How often a new broker that has given up is looked after, in seconds: its end is no event of the loop.
_LOOK = 0.05
# Characters of a reason that travels.
_LONGEST_REASON = 20_000


class Estate(NamedTuple):
    """What a broker gets from the one before it: descriptors, and what is to be known of them."""

    listener: int
    lock: int
    is_managed: bool  # whether the service manager has made the socket
    pid: int  # the broker before it
    control: int = -1  # the conversation with that one
    metrics: int = -1  # where the one before it serves its metrics; -1 if it does not
    # Earlier ones that have not ended yet: the process, and the conversation with it.
    earlier: Sequence[tuple[int, int]] = ()

    def __str__(self) -> str:
        return json.dumps(self._asdict())

    @property
    def descriptors(self) -> list[int]:
        """All of them."""
        single = (self.listener, self.lock, self.control, self.metrics)
        return [each for each in (*single, *(descriptor for _, descriptor in self.earlier)) if each >= 0]


def estate_from(text: str) -> Estate:
    """Return the estate that the text, an estate's str, names; raises ValueError if it is none.

    What another release says beyond that is ignored.
    """
    try:
        found = json.loads(text)
        known = {name: found[name] for name in Estate._fields if name in found}
        estate = Estate(**known)
        return estate._replace(earlier=tuple((int(pid), int(descriptor)) for pid, descriptor in estate.earlier))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the broker before this one leaves {text!r}, which poold cannot take over ({error}); use poold stop, and "
            "then poold start"
        ) from None


class Inheritance:
    """An estate at the one that has got it, and its conversation with the one that leaves it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.control = Conversation(estate.control)

    def refusal(self) -> str:
        """Return why the other broker wants this process to end, "" if it does not; nothing else is heard then."""
        return next((each["why"] for each in self.control.hear() if each["say"] == "give up"), "")

    def decline(self, why: str) -> None:
        """Say that this process does not take over. That is nothing new to one that has left already."""
        self.control.say(say="failed", why=why[:_LONGEST_REASON])


class Succession:
    """The start of one new broker, until it goes on or has failed."""

    def __init__(
        self,
        poller: Poller,
        heard: Callable[[Message], None],
        failed: Callable[[str], None],
    ) -> None:
        """heard is told what the new broker says, failed why it will not take over."""
        self._poller = poller
        self._heard = heard
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._process: subprocess.Popen[bytes]
        self._is_decided = False  # whether it goes on, or has failed
        self.control: Conversation
        self.pid = 0

    def begin(self, command: Sequence[str], estate: Estate, variables: Mapping[str, str]) -> None:
        """Start the command, which gets the estate and more variables; raises OSError if there is no program to start.

        The estate's control is made here.
        """
        self.control, other = pair()
        estate = estate._replace(control=other)
        try:
            with held_back_for_child():
                self._process = subprocess.Popen(
                    [*command, f"--estate={estate}"],
                    stdin=subprocess.DEVNULL,
                    pass_fds=estate.descriptors,
                    env={**os.environ, **variables},
                )
        except OSError:
            self.control.close()
            raise
        finally:
            os.close(other)
        self.pid = self._process.pid
        self._poller.add_reader(self.control.descriptor, self._hear)
        self._timer = self._loop.call_later(START_TIMEOUT, self._is_late)
        log.info("restart begun pid=%d", self.pid)

    def give_up(self, why: str) -> None:
        """Have the new broker end without having taken over."""
        if not self._is_decided:
            self.control.say(say="give up", why=why[:_LONGEST_REASON])
            self._fail(why)

    def hand_over(self) -> bool:
        """Tell the new broker that the address is its own; returns whether it is still there to be told."""
        if not self.control.say(say="go"):
            return False
        self._is_decided = True
        self._stop_timer()
        self._process.returncode = 0  # it goes on running: nobody waits for it here
        log.info("restart done pid=%d", self.pid)
        return True

    def close(self) -> None:
        """Listen to the new broker no more."""
        self._stop_timer()
        self._end_conversation()
        if self._process.poll() is None:
            self._process.returncode = 0  # whatever it does, nobody waits for it here

    def _hear(self) -> None:
        for message in self.control.hear():
            if message["say"] == "failed":
                self._fail(message["why"])
            else:
                self._heard(message)
        if self.control.is_over and self.control.descriptor >= 0:
            self._end_conversation()
            self._stop_timer()
            self._look()

    def _end_conversation(self) -> None:
        if self.control.descriptor >= 0:
            self._poller.remove_reader(self.control.descriptor)
            self.control.close()

    def _is_late(self) -> None:
        self._process.kill()
        self.give_up(f"it was not ready within {START_TIMEOUT:g} s")

    def _look(self) -> None:
        """Learn how the new broker has ended, without waiting for it."""
        if self._process.poll() is None:
            self._timer = self._loop.call_later(_LOOK, self._look)
        else:
            code = self._process.returncode
            how = f"ended with code {code}" if code >= 0 else f"was ended by {name_of(-code)}"
            self._fail(f"it {how}, and the log may say why")

    def _fail(self, why: str) -> None:
        if self._is_decided:
            return
        self._is_decided = True
        self._stop_timer()
        log.error("restart failed reason=%s", " ".join(why.split()))
        self._failed(why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
