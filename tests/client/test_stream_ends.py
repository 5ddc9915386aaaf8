"""A broker that ends between two blocks of a stream, against one that answers by a script."""

from pathlib import Path
from typing import Any

import pytest
from fake_channel import fields_of_result, without_rows
from scripted_broker import scripted

from client import DBConnectionError, Handler, UsageError
from client.channels import channel
from client.wire.codec import encode
from client.wire.messages import TX_ACTIVE, Failure, ResultMessage
from client.wire.zmtp import frame

GOODBYE = frame(encode(Failure(0, "none", "connection", "not executed", "the broker stops", None, {})))


def answer(request: Any) -> list[bytes | None]:
    """Whatever is declared, and one block; behind it the broker ends."""
    if not request.statement.startswith(b"FETCH"):
        return [_result(request, without_rows())]
    return [_result(request, fields_of_result(("1",), names=("a",))) + GOODBYE, None]


def _result(request: Any, fields: Any) -> bytes:
    return frame(encode(ResultMessage._make(fields)._replace(request=request.request, transaction=TX_ACTIVE)))


@pytest.mark.parametrize("trusted_for", [-1.0, 60.0], ids=["looked at", "trusted"])
def test_the_rows_that_came_are_read_and_the_next_tells_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted_for: float
) -> None:
    monkeypatch.setattr(channel, "TRUSTED_FOR", trusted_for)
    with scripted(tmp_path, answer) as broker:
        db = Handler("default", address=broker.address)
        rows = db.stream("SELECT a FROM t", size=1)
        assert tuple(next(rows)) == (1,)
        with pytest.raises(DBConnectionError, match="the broker stops") as caught:
            next(rows)
        assert not hasattr(caught.value, "__notes__")
        with pytest.raises(UsageError, match="ended before its last row"):
            next(rows)
