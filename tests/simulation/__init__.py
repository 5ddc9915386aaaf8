"""The real core in a simulated world: clients, network, PostgreSQL servers, time and chance from one seed.

    scenario    what kind of world it is, drawn first
    agenda      events by simulated time
    servers     PostgreSQL: processes that take time, row locks, crashes, failovers       locks
    network     connections between broker and servers: latency, resets, black holes
    clients     what client processes do
    faults      what goes wrong
    world       all of it: one step after the other, invariants after each, the end
    audit       what was answered against what is in the databases
    runner      many worlds
    mutations   mistakes put into the core, each of which has to be found

A step is one event: a message arrives, a statement ends, a deadline comes, a fault strikes, the shell has its turn.
Nothing but the seed decides what happens, so a seed and a step number name a moment that can be seen again.
"""
