"""Each fault: how it begins, and what it returns, how it ends."""

import signal
from collections.abc import Callable

from flows import BLACK_HOLE, SLICED, SLOW, Direction
from postgres import signal_all
from stage import Stage

End = Callable[[], object]
Fault = Callable[[Stage], End]


def nothing() -> None:
    """The end of what is over at once."""


# The network.


def reset_all(stage: Stage) -> End:
    stage.proxy.reset()
    return nothing


def reset_some(stage: Stage) -> End:
    stage.proxy.reset(share=0.5)
    return nothing


def black_hole(stage: Stage) -> End:
    stage.proxy.infect(BLACK_HOLE)
    return stage.proxy.heal


def black_hole_for_some(stage: Stage) -> End:
    stage.proxy.infect(BLACK_HOLE, share=0.5)
    return stage.proxy.heal


def lost_answers(stage: Stage) -> End:
    stage.proxy.infect(BLACK_HOLE, Direction.TO_BROKER, share=0.5)
    return stage.proxy.heal


def latency(stage: Stage) -> End:
    stage.proxy.infect(SLOW)
    return stage.proxy.heal


def slices(stage: Stage) -> End:
    stage.proxy.infect(SLICED, share=0.5)
    return stage.proxy.heal


def cut_in_a_row(stage: Stage) -> End:
    stage.proxy.sever(b"D", share=0.7)
    return stage.proxy.heal


def cut_in_a_commands_end(stage: Stage) -> End:
    stage.proxy.sever(b"C", share=0.7)
    return stage.proxy.heal


def slow_close_to_the_broker(stage: Stage) -> End:
    stage.proxy.slow_close(Direction.TO_BROKER, share=0.6)
    return stage.proxy.heal


def slow_close_to_the_server(stage: Stage) -> End:
    stage.proxy.slow_close(Direction.TO_SERVER, share=0.6)
    return stage.proxy.heal


def down(stage: Stage) -> End:
    stage.proxy.down()
    stage.proxy.reset()
    return stage.proxy.up


# Workers.


def workers_killed(stage: Stage) -> End:
    for worker in stage.chance.sample(stage.workers, 4):
        worker.kill()
    return stage.fill


def workers_stopped(stage: Stage) -> End:
    stopped = [worker.pid for worker in stage.chance.sample(stage.workers, 4)]
    signal_all(stopped, signal.SIGSTOP)
    return lambda: signal_all(stopped, signal.SIGCONT)


# The server's processes.


def backends_terminated(stage: Stage) -> End:
    for pid in some(stage, stage.serving()):
        stage.ask("SELECT pg_terminate_backend(%s)", (pid,))
    return nothing


def backend_killed(stage: Stage) -> End:
    """PostgreSQL ends all its other processes then, and recovers."""
    if serving := stage.serving():
        signal_all([stage.chance.choice(serving)], signal.SIGKILL)
    return nothing


def backends_stopped(stage: Stage) -> End:
    stopped = some(stage, stage.serving())
    signal_all(stopped, signal.SIGSTOP)
    return lambda: signal_all(stopped, signal.SIGCONT)


def some(stage: Stage, pids: list[int]) -> list[int]:
    return stage.chance.sample(pids, (len(pids) + 1) // 2)


# All of PostgreSQL.


def postgres_killed(stage: Stage) -> End:
    signal_all(stage.server.processes(), signal.SIGKILL)
    stage.server.kill()
    return stage.server.start


def postgres_restarted(stage: Stage) -> End:
    stage.server.restart()
    return nothing


def postgres_stopped(stage: Stage) -> End:
    stopped = stage.server.processes()
    signal_all(stopped, signal.SIGSTOP)
    return lambda: signal_all(stopped, signal.SIGCONT)


# The broker.


def broker_killed(stage: Stage) -> End:
    stage.broker.kill()

    return stage.broker.start


def broker_restarted(stage: Stage) -> End:
    """In good order: it finishes what it has, and refuses what comes meanwhile."""
    assert stage.broker.stop() == 0, stage.broker.log()
    return stage.broker.start


def broker_stopped(stage: Stage) -> End:
    stage.broker.signal(signal.SIGSTOP)
    return lambda: stage.broker.signal(signal.SIGCONT)


# The broker's end is first in each round: what is counted in the end has seen all the others.
FIRST = (broker_killed, broker_restarted)
OTHERS = (
    reset_all,
    reset_some,
    black_hole,
    black_hole_for_some,
    lost_answers,
    latency,
    slices,
    cut_in_a_row,
    cut_in_a_commands_end,
    slow_close_to_the_broker,
    slow_close_to_the_server,
    down,
    workers_killed,
    workers_stopped,
    backends_terminated,
    backend_killed,
    backends_stopped,
    postgres_killed,
    postgres_restarted,
    postgres_stopped,
    broker_stopped,
)
# What may be added to any other.
COMPANIONS = (latency, slices, reset_some, workers_killed, workers_stopped, backends_terminated, cut_in_a_row)
