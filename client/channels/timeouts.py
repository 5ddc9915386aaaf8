"""How long a channel waits for its broker, in seconds."""

# How long to wait for a broker to be there: short enough for an error within a second, long enough for its restart.
CONNECT_TIMEOUT = 0.8
CONNECT_AGAIN = 0.02
# How long a broker that listens may take to say Welcome: many workers may start at once on a busy machine.
WELCOME_TIMEOUT = 10.0
# During a wait for a reply: after how long a silence the broker is asked with PING, and after how long it counts as
# gone.
PING_AFTER = 10.0
GONE_AFTER = 30.0
