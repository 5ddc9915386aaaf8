"""The memory in which clients read what a broker has begun: who can write to it, and whom an entry is believed."""

import mmap
import os
import socket
from array import array
from collections.abc import Iterator

import pytest

from client.channels.ledger import NOTHING_SHARED, shared
from client.channels.ledger import Ledger as Read
from client.channels.sockets import PlainSocket
from client.wire.ledger import ENTRY
from client.wire.messages import VERSION, Welcome
from poold.clients.ledger import MEMORY_BYTES, Entry, Ledger
from poold.core.records.client import Client


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    made.close()


def entered(ledger: Ledger, key: int) -> Entry:
    entry = ledger.enter(key)
    assert entry is not None
    return entry


def begin(entry: Entry, number: int) -> None:
    """What the core does."""
    Client(1, 1, "", begun=entry.begun).has_begun(number)


def read(entry: Entry, key: int) -> Read:
    """What a client reads that was sent the entry along with Welcome."""
    here, there = socket.socketpair()
    there.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [entry.descriptor]))])
    plain = PlainSocket(socket.AF_UNIX)
    os.dup2(here.fileno(), plain.fileno())
    assert plain.receive(10, 1.0) == b"x"
    welcome = Welcome(VERSION, 1, "0", 0, 0, {}, b"", entry.place, key)
    found = shared(plain, welcome)
    for each in (here, there, plain):
        each.close()
    return found


def test_a_request_has_not_begun_until_its_number_is_noted(ledger: Ledger) -> None:
    first, second = entered(ledger, 1), entered(ledger, 2)
    ours, theirs = read(first, 1), read(second, 2)
    begin(first, 5)
    assert [ours.has_not_begun(number) for number in (4, 5, 6)] == [False, False, True]
    assert [theirs.has_not_begun(number) for number in (1, 5)] == [True, True]
    begin(first, 3)
    assert not ours.has_not_begun(5)


def test_it_can_be_read_when_the_broker_has_gone(ledger: Ledger) -> None:
    entry = entered(ledger, 1)
    ours = read(entry, 1)
    begin(entry, 5)
    ledger.close()
    assert (ours.has_not_begun(5), ours.has_not_begun(6)) == (False, True)


def test_an_entry_of_another_client_tells_nothing(ledger: Ledger) -> None:
    entry = entered(ledger, 1)
    ours = read(entry, 1)
    ledger.leave(entry)
    assert ours.has_not_begun(1)  # as it says still
    for key in range(2, MEMORY_BYTES // ENTRY.size + 2):
        last = entered(ledger, key)
    assert last.place == entry.place
    assert not ours.has_not_begun(1)
    assert read(last, key).has_not_begun(1)


def test_there_is_a_place_for_each_of_many_clients(ledger: Ledger) -> None:
    count = 2 * MEMORY_BYTES // ENTRY.size + 1
    entries = [entered(ledger, key) for key in range(1, count + 1)]
    assert len({(entry.descriptor, entry.place) for entry in entries}) == count
    assert len({entry.descriptor for entry in entries}) == 3
    for entry in entries[:: mmap.PAGESIZE // ENTRY.size]:
        begin(entry, 7)
        assert not read(entry, entry.key[0]).has_not_begun(7)


def test_only_the_broker_can_write_to_it(ledger: Ledger) -> None:
    entry = entered(ledger, 1)
    for access in (mmap.ACCESS_WRITE, mmap.ACCESS_DEFAULT):
        with pytest.raises(PermissionError):
            mmap.mmap(entry.descriptor, mmap.PAGESIZE, access=access)
    again = os.open(f"/proc/self/fd/{entry.descriptor}", os.O_RDWR)
    for change in (
        lambda: os.write(again, b"x"),
        lambda: os.ftruncate(again, 0),
        lambda: os.ftruncate(again, 2 * MEMORY_BYTES),
        lambda: mmap.mmap(again, mmap.PAGESIZE),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(again)
    memory = mmap.mmap(entry.descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ)
    with pytest.raises(TypeError):
        memory[0] = 1


@pytest.mark.parametrize("place", [-1, 1 << 40, MEMORY_BYTES])
def test_what_cannot_be_read_tells_nothing(ledger: Ledger, place: int) -> None:
    entry = entered(ledger, 1)
    elsewhere = Entry(entry.descriptor, place, entry.key, entry.begun)
    assert not read(elsewhere, 1).has_not_begun(5)


def test_a_socket_without_it_tells_nothing() -> None:
    with PlainSocket(socket.AF_INET) as plain:
        found = shared(plain, Welcome(VERSION, 1, "0", 0, 0, {}))
    assert found is NOTHING_SHARED
    assert not found.has_not_begun(1)
