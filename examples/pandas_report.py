"""A report with pandas on poold: sales are written, read back, summed up by month and kept as a table.

    poold start --detach
    python examples/pandas_report.py

What it took to move it from psycopg2: the URL. pandas takes SQLAlchemy's engine as it is. `method="multi"` was there
before; it writes many rows with each statement, and so with each message to the broker. A read of more than the group's
`max_result_bytes` is done in parts: `chunksize`, with `stream_results`.
"""

import sys

import pandas as pd
from sqlalchemy import Engine, create_engine

URL = "postgresql+poold:///default"
# Rows of one statement; it has four parameters for each.
ROWS_AT_ONCE = 1000


def sales() -> pd.DataFrame:
    """Two years of sales, one a day."""
    days = pd.date_range("2024-01-01", "2025-12-31", freq="D")
    return pd.DataFrame(
        {
            "day": days,
            "sku": [("A1", "B2", "C3")[number % 3] for number in range(len(days))],
            "number": [number % 7 + 1 for number in range(len(days))],
            "price": [19.90 if number % 2 else 5.00 for number in range(len(days))],
        }
    )


def report(engine: Engine) -> pd.DataFrame:
    """The turnover of each month."""
    streaming = engine.connect().execution_options(stream_results=True)
    with streaming as connection:
        parts = pd.read_sql("SELECT day, number * price AS turnover FROM sales", connection, chunksize=ROWS_AT_ONCE)
        months = [part.groupby(part["day"].dt.to_period("M"))["turnover"].sum() for part in parts]
    summed = pd.concat(months).groupby(level=0).sum().round(2)
    return pd.DataFrame({"month": summed.index.astype(str), "turnover": summed.to_numpy()})


def main(url: str = URL) -> None:
    """Write the sales, and show and keep the report."""
    engine = create_engine(url)
    sales().to_sql("sales", engine, if_exists="replace", index=False, method="multi", chunksize=ROWS_AT_ONCE)
    months = report(engine)
    months.to_sql("turnover", engine, if_exists="replace", index=False, method="multi")
    print(months.tail(3).to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
