"""Whose exception it is: the client's own, or a signal handler's."""

from types import FunctionType
from typing import Any

import pytest

from client.interruptions import is_own


def fails() -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ({"__name__": "zmq.sugar.socket"}, "recv", True),
        ({"__name__": "__main__"}, "handler", False),
        ({"__name__": "zmqlike"}, "recv", False),
        # As Cython's frames in modules built for any version of Python, and a handler that exec has made.
        ({}, "zmq.backend.cython._zmq._check_rc", True),
        ({}, "handler", False),
    ],
)
def test_an_error_is_the_clients_own_by_the_module_that_raised_it(
    namespace: dict[str, Any], name: str, expected: bool
) -> None:
    raises = FunctionType(fails.__code__.replace(co_name=name), {"ValueError": ValueError, **namespace})
    with pytest.raises(ValueError, match=r"^$") as caught:
        raises()
    assert is_own(caught.value) is expected


def test_an_error_that_was_never_raised_is_the_clients_own() -> None:
    assert is_own(ValueError())
