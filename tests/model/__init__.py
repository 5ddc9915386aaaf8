"""What surrounds the core, modelled: servers, the shell, the books of what was asked and answered, invariants.

The state machine in tests/core plays any order of facts against the core; the simulator in tests/simulation lets time
pass and draws what happens from a seed. Both build on this.
"""
