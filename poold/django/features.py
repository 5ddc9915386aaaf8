"""What Django may expect of this backend, where that differs from its own for PostgreSQL."""

from django.db.backends.postgresql import features as django_features


class DatabaseFeatures(django_features.DatabaseFeatures):
    """Django's features of PostgreSQL with psycopg2."""

    uses_server_side_binding = False
    prohibits_null_characters_in_text_exception = (
        ValueError,
        "A string literal cannot contain NUL (0x00) characters.",
    )
