"""What the core knows of each client, lease, request and backend: plain data, below all decisions."""
