"""What a client says of a request whose broker went away: how far the request had come, and so what may have run."""

from client.errors import DBError, connection_error, error_from, unanswered, unserved
from client.wire.address import ipc_path
from client.wire.messages import NOT_EXECUTED, UNKNOWN, Failure


def not_sent(address: str, error: OSError, is_more: bool, goodbye: Failure | None = None) -> DBError:
    """The error of a request that was not sent as a whole; the broker does not run one that is incomplete.

    is_more: the request itself was, and what was not sent belongs to it: nobody knows what became of it. goodbye is
    what the broker has said of the end of the conversation.
    """
    is_late = isinstance(error, BlockingIOError)
    what = "took no more of the request in time" if is_late else "went away"
    when = "in the middle of the COPY; the statement may have run" if is_more else "before the request was sent"
    text = f"broker at {address} {what} {when} ({error.strerror or error if goodbye is None else goodbye.message})"
    if is_more or is_late:
        return connection_error(text, UNKNOWN if is_more else NOT_EXECUTED)
    return unserved(text)


def not_answered(address: str, is_unread: bool, has_not_begun: bool = False) -> DBError:
    """The error of a request that was sent.

    is_unread: the broker has certainly not read all of it; has_not_begun: it has certainly given none of it to
    PostgreSQL.
    """
    if is_unread:
        return unserved(f"broker at {address} went away before it read the request")
    if has_not_begun:
        return unserved(f"broker at {address} went away before it began the request")
    return connection_error(f"broker at {address} went away before it answered; the statement may have run")


def no_answer(address: str, patience: float) -> DBError:
    """The error of a request that the broker has, and did not answer in so many seconds."""
    return unanswered(f"broker at {address} did not answer within {patience:g} s; the statement may have run")


def goodbye(failure: Failure) -> DBError:
    """The error of a request during which the broker ends the conversation, as the failure says.

    It does not say what became of the request.
    """
    return error_from(failure._replace(outcome=UNKNOWN) if failure.kind == "connection" else failure)


def no_handshake(address: str) -> DBError:
    """The error of a connection that ended before the conversation had begun."""
    text = "in the middle of ZeroMQ's handshake"
    if ipc_path(address) is not None:
        return unserved(text)
    # libzmq closes the connection before it has said that it wants CURVE.
    return connection_error(f"{text}; a broker with keys does so: give server_key and key", NOT_EXECUTED)


def tells_of_unread(address: str, error: OSError) -> bool:
    """Whether the error says that the other side has gone and has not read all that was sent: unix sockets do."""
    return isinstance(error, ConnectionResetError) and ipc_path(address) is not None
