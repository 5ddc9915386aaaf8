"""Programs of tests that use ENGINE = "poold.django"."""

import json
from collections.abc import Callable
from typing import Any

from brokers import Worker

StartWorker = Callable[..., Worker]

# A program that uses Django; a variable has its settings as JSON.
DJANGO = """
import django
from django.conf import settings

given = json.loads(os.environ["SETTINGS"])
entry = {"ENGINE": "poold.django", **given.pop("DATABASE", {})}
settings.configure(**{"DATABASES": {"default": entry}, "INSTALLED_APPS": [], **given})
django.setup()

from django.core import checks
from django.db import DatabaseError, IntegrityError, OperationalError, connection, models, transaction

def ask(statement, params=None):
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return cursor.fetchone()[0] if cursor.description else None
"""


def program(start_worker: StartWorker, text: str, address: str | None = None, **settings: Any) -> Worker:
    """Start a program that uses Django on a broker, the session's if no other is named."""
    more = {} if address is None else {"address": address}
    return start_worker(DJANGO + text, SETTINGS=json.dumps(settings), **more)
