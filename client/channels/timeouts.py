"""How long a channel waits for its broker, in seconds."""

# How long to wait for a broker to be there: short enough for an error within a second, long enough for its restart.
CONNECT_TIMEOUT = 0.8
CONNECT_AGAIN = 0.02
# If one listens, how long it may take to say Welcome: many workers may start at once on a busy machine.
WELCOME_TIMEOUT = 10.0
# After so long a silence in a wait the broker is asked with PING; without any answer for so long it counts as gone.
PING_AFTER = 10.0
GONE_AFTER = 30.0
