"""What operators have the broker do."""
