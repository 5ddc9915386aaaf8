"""Errors read as psycopg2's do, down to the line of the statement and the mark under the place."""

import random
from typing import Any

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres

import client

# Of one column, of two and of none; some that one version of Unicode knows and another does not.
LETTERS = "ab \t\n\r,;é中\uff01\u0301\u302a😀\ufffe\uff21\u2ffc\ufa6e\U0003134b\U0003fffd"
MISTAKES = ("nocol", "1/0x", "FROM", "(", ") x", "nofunc(1)", "'a'::int")


def statement(dice: random.Random) -> str:
    """A wrong statement, with the mistake anywhere in lines of any length."""
    before = "".join(dice.choice(LETTERS) for _ in range(dice.randrange(90)))
    blanks = "".join(dice.choice("ab \n") for _ in range(dice.randrange(60)))
    after = "".join(dice.choice("ab é\t") for _ in range(dice.randrange(80)))
    return f"SELECT '{before}' {blanks}{dice.choice(MISTAKES)}{after}"


def test_the_place_of_a_mistake_is_shown_as_psycopg2_shows_it(broker: Broker, postgres: Postgres) -> None:
    seed = 20261122
    dice = random.Random(seed)
    db = broker.handler()
    with postgres.connect() as connection:
        for number in range(400):
            wrong = statement(dice)
            errors: list[str] = []
            for run in (connection.cursor().execute, db.query):
                try:
                    run(wrong)
                except psycopg2.Error as error:
                    errors.append(str(error))
                connection.rollback()
            assert len(errors) in (0, 2), f"seed {seed}, statement {number}: {wrong!r}"
            assert len(set(errors)) < 2, f"seed {seed}, statement {number}: {wrong!r}"
    connection.close()


@pytest.mark.parametrize("name", ["default", "transactions"])
def test_a_stream_shows_the_programs_statement_and_the_place_in_it(
    broker: Broker, postgres: Postgres, name: str
) -> None:
    seed = 20261128
    dice = random.Random(seed)
    db = broker.handler(name)
    if name == "transactions":
        db.query("SELECT 1")
    wrong = [statement(dice) for _ in range(100)]
    wrong += ["\n" * lines + "SELECT  nocol" for lines in (0, 8, 9, 10, 98, 99)]
    wrong += ["SELECT", "SELECT 1 FROM", "SELECT ';' ;  -- behind\n", "SELECT 'LINE 1: x' || nocol", "TABLE nothere;"]
    compared = 0
    with postgres.connect() as connection:
        for number, each in enumerate(wrong):
            found: list[Any] = []
            for run in (connection.cursor().execute, lambda text: list(db.stream(text))):
                try:
                    run(each)
                except client.UsageError:
                    break  # several statements, or none that reads
                except psycopg2.Error as error:
                    place = error.diag.statement_position
                    # What CURSOR FOR reads is no statement of its own: where one ends too early the words differ.
                    found.append((str(error).partition("\n")[2], place, error.pgcode))
                connection.rollback()
                if name == "transactions":
                    db.rollback()
                    db.query("SELECT 1")
            if len(found) == 2:
                compared += 1
                assert found[0] == found[1], f"seed {seed}, statement {number}: {each!r}"
    connection.close()
    db.rollback()
    assert compared > 30


def test_a_mistake_in_a_line_of_a_million_characters_is_found_at_once(broker: Broker, postgres: Postgres) -> None:
    # Looking at the whole line once for every character of it would take hours.
    wrong = "SELECT '" + "中" * 500_000 + "', nocol, '" + "é" * 500_000 + "'"
    with pytest.raises(psycopg2.errors.UndefinedColumn) as theirs, postgres.connect() as connection:
        connection.cursor().execute(wrong)
    with pytest.raises(psycopg2.errors.UndefinedColumn) as ours:
        broker.handler().query(wrong)
    assert str(ours.value) == str(theirs.value)
