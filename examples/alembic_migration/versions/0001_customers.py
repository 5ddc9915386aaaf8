"""Make the table of customers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    customers = op.create_table(
        "customers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("mail", sa.String),
    )
    op.bulk_insert(customers, [{"name": "Ada", "mail": "ada@example.org"}, {"name": "Grace", "mail": None}])


def downgrade() -> None:
    op.drop_table("customers")
