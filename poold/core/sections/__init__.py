"""What `poold stats` shows of the core besides its sums: backends, who waits and why, statements; as plain values."""
