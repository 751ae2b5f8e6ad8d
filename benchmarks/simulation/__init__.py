"""A simulated fleet around the real scheduler core, on a virtual clock.

Rules of this room:

1. The core is the product's own (`collodion.scheduler.core.Core`): policies, cost model and admission as they run in a server. What is
   simulated is what surrounds it: workers that keep to the wire protocol and to the rule of `Membership`, a frontend, the transit of
   messages, and the clock.
2. Time jumps from change to change: a virtual worker computes when the next one happens, and says nothing in between.
3. Everything follows from the instance, the settings and the seed: the same of them give the same schedule.
4. An `Instance` says all there is to know of a problem, so that simulator, yardstick and load generator mean the same one.
5. Times are seconds (float). In an instance and in results they count from the instance's zero.
"""
