"""Index the mail addresses while the shop is open: CONCURRENTLY, so outside of a transaction."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index("customers_mail", "customers", ["mail"], unique=True, postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("customers_mail", "customers", postgresql_concurrently=True)
