"""What the broker knows about statements: from their texts, from PostgreSQL, and from earlier runs."""
