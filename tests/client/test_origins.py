"""Where in a program a request comes from."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client import origins
from client.origins import PLACE_VARIABLE, Origin
from client.wire.origins import MAX_PLACE_BYTES, is_origin, is_traced, place_in

HERE = Path(__file__).name


def place(origin: Origin) -> str:
    return place_in(origin())


def test_the_place_is_that_of_the_caller() -> None:
    told = place(Origin(True, False))
    assert told == f"{__name__}.place {HERE}:{place.__code__.co_firstlineno + 1}"


class Shop:
    def pay(self) -> bytes:
        return Origin(True, False)()


def test_a_method_is_named_with_its_class() -> None:
    assert place_in(Shop().pay()).startswith(f"{__name__}.Shop.pay {HERE}:")


@pytest.mark.parametrize("module", ["client.dbapi.cursor", "sqlalchemy.engine", "django.db.models", "contextlib"])
def test_the_code_of_libraries_is_nobodys_place(module: str) -> None:
    names: dict[str, Any] = {"__name__": module, "origin": Origin(True, False)}
    exec(compile("def told(): return origin()", f"/lib/{module}.py", "exec"), names)
    assert place_in(names["told"]()).startswith(f"{__name__}.test_the_code_of_libraries_is_nobodys_place {HERE}:")


def test_a_context_manager_is_named_by_who_uses_it() -> None:
    @contextlib.contextmanager
    def block() -> Any:
        yield Origin(True, False)()

    with block() as told:
        assert ".block " in place_in(told)


def test_strings_that_are_run_are_told_apart_by_their_modules() -> None:
    code = compile("def told(): return origin()", "<string>", "exec")
    for module in ("client.x", "shop"):
        names: dict[str, Any] = {"__name__": module, "origin": Origin(True, False)}
        exec(code, names)
        assert place_in(names["told"]()).startswith("shop.told <string>:1") is (module == "shop")


def test_a_long_place_is_cut_in_front_and_remains_an_origin() -> None:
    name = "é" * 300
    names: dict[str, Any] = {"__name__": "m" * 300, "origin": Origin(True, False)}
    exec(compile(f"def {name}(): return origin()", "/lib/long.py", "exec"), names)
    told = names[name]()
    assert is_origin(told)
    assert len(told) <= MAX_PLACE_BYTES + 1
    assert place_in(told).startswith("...")
    assert place_in(told).endswith("é long.py:1")


def test_the_places_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "PLACES_KEPT", 2)
    origin = Origin(True, False)
    told = [
        origin(),
        origin(),
        origin(),
        origin(),
    ]
    assert len(set(told)) == 4
    assert len(origins._places) <= 2


@pytest.mark.parametrize(("word", "is_on"), [("1", True), ("on", True), ("TRUE", True), ("0", False), ("", False)])
def test_the_environment_turns_code_places_on(word: str, is_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, word)
    assert Origin(None, False).code_place is is_on
    assert Origin(not is_on, False).code_place is not is_on


def test_a_word_that_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE_VARIABLE, "maybe")
    with pytest.raises(ValueError, match=r"POOLD_CODE_PLACE is 'maybe'; expected 1"):
        Origin(None, None)


@pytest.mark.parametrize("values", [("yes", None), (1, None), (None, "yes"), (None, 1)])
def test_other_values_are_refused(values: Any) -> None:
    with pytest.raises(TypeError, match=r"(code_place|trace) is "):
        Origin(*values)


PROGRAM = """
import sys
from client.origins import Origin
origin = Origin(None, None)
assert origin() == b""
assert not [name for name in sys.modules if name.startswith("opentelemetry")], "nobody has asked for it"
from opentelemetry import trace
assert origin() == b"", "no span"
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("program")
with tracer.start_as_current_span("work") as span:
    context = span.get_span_context()
    expected = f"\\0" + f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    assert origin() == expected.encode(), origin()
    assert Origin(None, False)() == b""
off = TracerProvider(sampler=ALWAYS_OFF).get_tracer("program")
with off.start_as_current_span("work"):
    assert origin() == b"", "not recorded"
print("well")
"""


def test_opentelemetry_is_used_if_the_program_has_loaded_it_and_loaded_by_nobody_else() -> None:
    environment = {name: value for name, value in os.environ.items() if name != PLACE_VARIABLE}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.stdout == "well\n", done.stderr


def test_without_opentelemetry_trace_true_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, origins.API, None)
    with pytest.raises(ValueError, match="pip install opentelemetry-api"):
        Origin(None, True)


def test_an_api_that_is_half_loaded_has_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, origins.API, object())
    assert not is_traced(Origin(False, None)())
