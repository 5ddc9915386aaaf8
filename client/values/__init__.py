"""Values on their way to PostgreSQL and back, converted as psycopg2 converts them."""
