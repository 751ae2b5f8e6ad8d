"""What the best possible schedule would reach: exactly for small instances, at most for large ones.

Rules of this room:

1. Everything here errs to one side. Where a model of the devices is not exact it allows more than they can do (costs rounded down,
   deadlines up, constraints left out, never added), so what it finds is at least what any scheduler attains: a clairvoyant one too.
2. A job counts if every image of it is decoded by its deadline. Storing the pictures, messages and noise are left out. Jobs without a
   deadline are left out as well: no device has to run them.
3. A device is as its `Device` says: one batch at a time, encode, step or decode, of one batch key, never above its bounds. Which
   batch runs when is free: the order of lanes that workers keep is a rule of ours, and not asked for here.
4. Times are seconds as in `simulation.instance`, except in `ticks` and what is built on it.
"""
