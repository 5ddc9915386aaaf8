"""The configuration: what it may say, where it is read from, what it refers to."""
