"""What passes between client and broker, as both sides know it: messages, limits, frames, addresses, keys."""
