"""A PostgreSQL of the broker's own, for people who have none running."""
