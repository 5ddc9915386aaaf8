"""What `texts` has for the other compiled modules."""

from libc.stdint cimport uint8_t

# What a text is a value of. ARRAY is added to an item's kind.
cdef enum Kind:
    OTHER  # only psycopg2's caster knows
    WHOLE_NUMBER
    FLOAT
    NUMERIC
    TEXT
    BOOLEAN
    DATE
    TIME
    TIMESTAMP
    TIMESTAMPTZ
    ARRAY = 32


cdef object value_of(int kind, const uint8_t *text, Py_ssize_t size)
