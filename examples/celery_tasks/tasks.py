"""Celery tasks on poold: a Handler for all processes of a worker, and transactions that may be sent again.

celery -A tasks worker --concurrency 16
"""

import os
from typing import Any

from celery import Celery, Task

from client import DBError, Handler

app = Celery("tasks", broker=os.environ.get("CELERY_BROKER_URL", "memory://"), backend="cache+memory://")
app.conf.task_acks_late = True  # a task whose process dies is given to another one; so each is safe to repeat

# Made before the worker forks, used in each of its processes: it holds no connection.
db = Handler(os.environ.get("TASKS_GROUP", "default"), tag="celery", priority="batch")


class DatabaseTask(Task):  # type: ignore[misc]  # Celery publishes no types
    """A task that comes back later if the database could not take its work: nothing of it was done."""

    abstract = True
    max_retries = 5

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; what is safe to repeat and may succeed then is repeated after 1, 2, 4 ... seconds."""
        try:
            return super().__call__(*args, **kwargs)
        except DBError as error:
            if not error.retryable:
                raise
            raise self.retry(exc=error, countdown=2**self.request.retries) from error


@app.task
def create_tables() -> None:
    """Make what the tasks work on."""
    db.query("CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0))")
    db.query("CREATE TABLE IF NOT EXISTS transfers (id text PRIMARY KEY, source int, target int, amount numeric)")


@app.task(base=DatabaseTask, bind=True)
def transfer(self: Any, source: int, target: int, amount: int) -> bool:
    """Move money; False if this very task has done so before. One message to the broker, one transaction."""
    with db.transaction() as tx:
        # The task's id is written with its work, so a task that is delivered twice works once.
        done = tx.query(
            "INSERT INTO transfers VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING amount",
            (self.request.id, source, target, amount),
        )
        moved = done.column("amount")
        taken = "UPDATE accounts SET balance = balance - m FROM unnest(%s::numeric[]) AS m WHERE id = %s"
        given = "UPDATE accounts SET balance = balance + m FROM unnest(%s::numeric[]) AS m WHERE id = %s"
        tx.query(taken, (moved, source))
        tx.query(given, (moved, target))
    return len(done.result()) == 1


@app.task(base=DatabaseTask)
def total() -> str:
    """What all have together: one statement."""
    return str(db.query("SELECT sum(balance) FROM accounts")[0][0])
