"""The real core in a simulated world: clients, network, PostgreSQL servers, time and chance from one seed.

    scenario    what kind of world it is, drawn first
    agenda      events by simulated time
    servers     PostgreSQL: processes that take time, crashes, failovers; with the row locks in locks
    network     connections between broker and servers: latency, resets, black holes; with the shell's turns in turns
    clients     what client processes do; in asking: requests and their way; in sessions: sessions
    faults      what goes wrong
    world       all of it: one step after the other, what must hold after each, the end
    audit       what was answered against what is in the databases
    runner      many worlds
    mutations   mistakes put into the core, each of which has to be found; more in mutations_of_sessions, _of_pools,
                _of_statements, _of_the_lane and _of_clusters
    fleet       servers of one database cluster: replication, promotions; what the broker asks them in watchers, what
                goes wrong with them in faults_of_clusters, what must hold in `model.roles`

Every eighth world is one in which the endpoints are a primary and its standbys; in all others they are equals.
Every third world has a lane (`model.lane`), and every other of these is one in which most requests are the lane's.

A step is one event: a message arrives, a statement ends, a deadline comes, a fault strikes, the shell has its turn.
Nothing but the seed decides what happens, so a seed and a step number name a moment that can be seen again: nothing
here iterates over a set, or depends on an object's identity.

After a step that told the core something, `model.invariants` are checked of all groups, and of the clients and backends
that the fact was about, or its effects were; after a tick, and every CHECK_EVERY steps, of everything. Effects, replies
and commits are checked when they come, in `model.shell` and `model.books`.

What the core learns to do gets its place: another kind of request in `clients` (and in the books, which say what its
answers mean; a session's answers in `model.sessions`), another effect in `model.shell` (what must hold of it) and
`network` (how long it takes), another configuration key in `scenario`, another fault in `faults`, another command that
a server runs in `servers`, another kind of statement in `model.kinds`, something else that one leaves in its session in
`model.leftovers`, a setting that travels in `model.marks`, another rule of whose turn it is in `model.fairness` or
`model.turns`, of how long backends live in `model.lifetimes`, of what a lane may do in `model.lending`, and a mistake
in each of them in `mutations`.
"""
