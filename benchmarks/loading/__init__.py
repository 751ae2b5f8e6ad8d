"""Load from outside: the real server, driven through the real client with the simulator's workloads.

1. What is asked for, and when, comes from `simulation.workloads`: the same flags and seed ask for the same pictures here and there.
2. A run's fate is written down as the simulator writes its own (`simulation.ledger.Record`), so that one definition of goodput, of
   attainment and of latency serves both.
3. A load is relative to what the device really costs: a profile that was measured before, or is measured first.
4. Latency counts from the moment at which a request was to be sent: a client that is late hides nothing.
"""
