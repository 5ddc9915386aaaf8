"""The broker's side towards its clients: who they are, what they send, what they are sent."""
