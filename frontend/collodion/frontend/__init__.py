"""The frontend: gRPC to clients on one side, ZeroMQ to the scheduler on the other. It holds no job state that matters.

Rules of this room:

1. One event loop, no thread but the store's readers and those of gRPC and Prometheus. What happens per event stays
   lean: one conversion an event, however many streams it goes to, and no task of its own.
2. Only `link` speaks to the scheduler and only `rpc` ends RPCs; what fails in between is raised as `errors.CallError`.
3. Everything a stream waits for has an end: an answer, a timeout, the scheduler's silence, or the client's leaving.
"""
