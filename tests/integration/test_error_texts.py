"""Errors read as psycopg2's do, down to the line of the statement and the mark under the place."""

import random

import psycopg2
from brokers import Broker
from postgres import Postgres

LETTERS = "ab \t\n\r,;é中\uff01\u0301😀\ufffe\uff21"
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
