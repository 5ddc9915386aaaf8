"""What a backend is given to do for a request, and what its answers mean."""
