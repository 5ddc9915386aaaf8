"""The audit finds each kind of forgery: otherwise it would prove nothing."""

import json
from pathlib import Path

import pytest
from audit import Attempt, Audit, Entry, Fate, audit, read_log

COMMITTED = Attempt(1, 1, "message", [0, 1, 2], True, fate=Fate.COMMITTED)
ABSENT = Attempt(1, 2, "message", [0, 1], True, fate=Fate.ABSENT, error="QueryCanceled")
UNKNOWN = Attempt(2, 1, "message", [0, 1], True, fate=Fate.UNKNOWN, error="CommitOutcomeUnknown")
UNTOLD = Attempt(2, 2, "single", [0], True)
NEVER_SENT = Attempt(3, 1, "lease", [0, 1], False)
HONEST = [COMMITTED, ABSENT, UNKNOWN, UNTOLD, NEVER_SENT]
WHOLE: list[Entry] = [(1, 1, 0), (1, 1, 1), (1, 1, 2)]


def verdicts(found: list[Entry], attempts: list[Attempt] = HONEST) -> list[str]:
    """The kinds of what is wrong."""
    return [text.partition(":")[0] for text in audit(attempts, found).wrong]


def test_honest_books_are_in_order_and_counted() -> None:
    result = audit(HONEST, [*WHOLE, (2, 1, 0), (2, 1, 1)])
    assert result.wrong == []
    assert result.fates == {"committed": 1, "absent": 2, "unknown": 2}
    assert (result.untold, result.unknown_there) == (1, 1)
    assert result.errors == {"QueryCanceled": 1, "CommitOutcomeUnknown": 1}


def test_an_unknown_one_may_be_there_or_not() -> None:
    assert verdicts([*WHOLE]) == []
    assert verdicts([*WHOLE, (2, 1, 0), (2, 1, 1), (2, 2, 0)]) == []


def test_a_lost_commit_is_found() -> None:
    assert verdicts([]) == ["lost"]


@pytest.mark.parametrize("twice", [(1, 1, 0), (2, 1, 1), (2, 2, 0)])
def test_a_doubled_entry_is_found_whatever_was_told(twice: Entry) -> None:
    assert verdicts([*WHOLE, (2, 1, 0), (2, 1, 1), (2, 2, 0), twice]) == ["doubled"]


@pytest.mark.parametrize("found", [WHOLE[:2], [*WHOLE, (2, 1, 1)], [*WHOLE, (1, 1, 3)]])
def test_a_half_transaction_is_found_whatever_was_told(found: list[Entry]) -> None:
    assert verdicts(found) == ["half"]


@pytest.mark.parametrize("undead", [(1, 2, 0), (3, 1, 1)])
def test_what_was_rolled_back_and_is_there_is_found(undead: Entry) -> None:
    assert verdicts([*WHOLE, undead]) == ["undead"]


def test_an_entry_that_nobody_wrote_is_found() -> None:
    assert verdicts([*WHOLE, (9, 1, 0)]) == ["strange"]


def test_a_wrong_reply_is_found() -> None:
    assert audit(HONEST, WHOLE, ["worker 1: mine was another"]).wrong == ["told_wrong: worker 1: mine was another"]


@pytest.mark.parametrize(
    ("told", "found", "expected"),
    [
        (None, [0, 1, 2], []),
        (None, [0], []),
        (None, [0, 1], ["half"]),
        (True, [0, 1, 2], []),
        (True, [0], ["half"]),
        (False, [0], []),
        (False, [0, 1, 2], ["half"]),
    ],
)
def test_a_savepoint_block_is_there_as_a_whole_or_not_and_as_it_was_told(
    told: bool | None, found: list[int], expected: list[str]
) -> None:
    with_block = Attempt(1, 1, "message", [0], True, [1, 2], told, Fate.COMMITTED)
    assert verdicts([(1, 1, part) for part in found], [with_block]) == expected


@pytest.mark.parametrize(
    ("fate", "found", "expected"),
    [
        (Fate.UNKNOWN, [0], []),
        (Fate.UNKNOWN, [0, 1, 2], []),
        (Fate.UNKNOWN, [1], ["half"]),
        (None, [0, 1], []),
        (Fate.ABSENT, [0], ["undead"]),
        (Fate.COMMITTED, [0, 1], ["half"]),
        (Fate.COMMITTED, [0, 1, 2], []),
    ],
)
def test_what_commits_part_by_part_is_there_up_to_some_part(
    fate: Fate | None, found: list[int], expected: list[str]
) -> None:
    steps = Attempt(1, 1, "steps CALL", [0, 1, 2], True, fate=fate, is_stepwise=True)
    assert verdicts([(1, 1, part) for part in found], [steps]) == expected


def test_a_log_is_read_as_far_as_it_was_written(tmp_path: Path) -> None:
    lines = [
        {"begin": 1, "way": "message", "parts": [0], "block": [1], "is_sent": True},
        {"block_there": True, "serial": 1},
        {"end": 1, "fate": "committed", "error": ""},
        {"begin": 2, "way": "lease", "parts": [0, 1], "block": [], "is_sent": False},
        {"commit": 2},
        {"end": 2, "fate": "unknown", "error": "DBConnectionError"},
        {"wrong": "a row of somebody else"},
        {"begin": 3, "way": "lease", "parts": [0], "block": [], "is_sent": False},
    ]
    path = tmp_path / "7.log"
    path.write_text("\n".join(map(json.dumps, lines)))
    attempts, told_wrong = read_log(path)
    assert attempts == [
        Attempt(7, 1, "message", [0], True, [1], True, Fate.COMMITTED),
        Attempt(7, 2, "lease", [0, 1], True, fate=Fate.UNKNOWN, error="DBConnectionError"),
        Attempt(7, 3, "lease", [0], False),
    ]
    assert told_wrong == ["worker 7: a row of somebody else"]


def test_the_report_says_all_that_is_wrong() -> None:
    result: Audit = audit(HONEST, [*WHOLE, (9, 1, 0)], ["x"])
    assert "strange 1" in result.lines()[1]
    assert "wrong replies 1" in result.lines()[1]
