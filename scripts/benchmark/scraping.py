"""What a scrape of the metrics costs a broker: its processor time, and for how long a ping waits beside scrapes.

    PYTHONPATH=scripts .venv/bin/python scripts/benchmark/scraping.py [CLIENTS]

The broker has three groups on ten endpoints each, which are not there, and so many clients that do nothing. Scrapes
come one after another, which no collector does; so what the broker lets them have of its time is seen as well.
"""

import http.client
import resource
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmark.broker import Broker
from benchmark.idle import CLIENTS, PINGS, idle_client
from benchmark.processor import seconds
from benchmark.service import Service
from client.channels.channel import Channel
from client.wire.messages import Ask

SCRAPES = 200
GROUPS = 3
ENDPOINTS = 10
# Between scrapes, so that they stay within what the broker lets them have.
PAUSE = 0.2


def configuration(path: Path, folder: Path, port: int) -> str:
    endpoints = [f'[endpoints.server{n}]\nhost = "{folder}"\nuser = "a"\ndbname = "a"\n' for n in range(ENDPOINTS)]
    groups = [f'[groups.group{n}]\nrole = "any"\nmin_size = 0\n' for n in range(GROUPS)]
    broker = f'[broker]\naddress = "ipc://{path}"\nmetrics_address = "127.0.0.1:{port}"\n'
    return "\n".join([broker, *endpoints, *groups])


def scrape(connection: http.client.HTTPConnection) -> bytes:
    """One page."""
    connection.request("GET", "/metrics")
    with connection.getresponse() as answer:
        return answer.read()


def ping_milliseconds(channel: Channel) -> list[float]:
    """How long pings take, in order of their length."""
    found = []
    for _ in range(PINGS):
        began = time.perf_counter()
        channel.call(Ask(channel.next_request(), "ping"))
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def show_pings(channel: Channel, what: str) -> None:
    """Show how long they take, in the middle and at worst."""
    found = ping_milliseconds(channel)
    print(f"a ping {what}: p50 {found[len(found) // 2]:.2f} ms, p99.9 {found[-len(found) // 1000]:.2f} ms")


def main() -> None:
    """Show all of it with the clients there."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="poold-scraping-", dir="/tmp") as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        folder = Path(name)
        config, path = folder / "poold.toml", folder / "poold.sock"
        config.write_text(configuration(path, folder, port))
        broker = Service("the broker", Broker.poold("start", "--config", str(config)), folder / "log", {})
        try:
            broker.start(path.exists)
            channel = Channel(f"ipc://{path}")
            clients = [idle_client(str(path)) for _ in range(count)]
            connection = http.client.HTTPConnection("127.0.0.1", port)
            page = scrape(connection)
            size = f"{len(page)} bytes, {page.count(bytes([10]))} lines"
            print(f"{count} clients, {GROUPS} groups on {ENDPOINTS} endpoints: {size}")
            before = seconds([broker.pid])
            for _ in range(SCRAPES):
                scrape(connection)
                time.sleep(PAUSE)
            print(
                f"a scrape: {(seconds([broker.pid]) - before) / SCRAPES * 1000:.2f} ms of the broker's processor time"
            )
            show_pings(channel, "without scrapes")
            is_over = threading.Event()
            done = 0

            def collect() -> None:
                nonlocal done
                while not is_over.is_set():
                    scrape(connection)
                    done += 1

            collecting, began = threading.Thread(target=collect), time.perf_counter()
            collecting.start()
            show_pings(channel, "beside endless scrapes")
            is_over.set()
            collecting.join()
            print(f"endless scrapes: {done / (time.perf_counter() - began):.0f} per second")
            channel.close()
            for client in clients:
                client.close()
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
