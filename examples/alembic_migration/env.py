"""How Alembic gets to the database: as `alembic init` writes it, shortened."""

from alembic import context
from sqlalchemy import create_engine

# POOLD_ADDRESS in the environment, or address= in the URL, say where the broker is.
url = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option("sqlalchemy.url")

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(str(url)).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
