"""Messages between our own processes, and the sockets that carry them.

Rules of this room:

1. A message is a frozen msgspec struct, tagged by its name, encoded as msgpack; never pickle.
2. Messages are grouped by receiver: `to_scheduler`, `to_worker`, `to_frontend`. Facts are in the past tense or are a state,
   orders are imperative.
3. What repeats is harmless: a worker and a frontend say their whole state every second, and the scheduler says its
   whole wish. So a lost message, a repeated one and a restarted peer are one case.
4. Times on the wire are Unix seconds (float), durations are seconds. Only the scheduler stamps.
"""
