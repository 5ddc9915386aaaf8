"""What PostgreSQL skips before a statement's first word: space and comments, also comments in comments."""

_INNER = rb"/\*(?:[^*]|\*(?!/))*+\*/"
# A pattern that takes all there is, and gives nothing back: a text of many comments would be tried in 2**n ways.
BLANKS = rb"(?:\s|--[^\n]*+|/\*(?:[^*/]|\*(?!/)|/(?!\*)|" + _INNER + rb")*+\*/)*+"
