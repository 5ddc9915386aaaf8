"""Values on their way to PostgreSQL and back, as psycopg2 has them."""
