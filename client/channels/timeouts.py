"""How long a channel waits for its broker, in seconds."""

# How long a Handler waits for a broker if it is not told: long enough for a restart of it.
CONNECT_WAIT = 5.0
# How long a question waits for one that it wants to know of: short enough for an answer within a second.
CONNECT_TIMEOUT = 0.8
# The pauses between attempts: at first, and at most.
CONNECT_AGAIN, CONNECT_SELDOM = 0.02, 0.25
# How long a broker that listens may take to say Welcome: many workers may start at once on a busy machine.
WELCOME_TIMEOUT = 10.0
# During a wait for a reply: after how long a silence the broker is asked with PING, and after how long it counts as
# gone.
PING_AFTER = 10.0
GONE_AFTER = 30.0
# For so many seconds after a message from the broker it is assumed to be there still; to look costs a system call per
# request. If the assumption is wrong, the request itself fails.
TRUSTED_FOR = 0.01
