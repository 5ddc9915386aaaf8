"""Who may do what, and what becomes a request."""
