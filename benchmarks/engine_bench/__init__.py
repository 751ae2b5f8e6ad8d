"""What `engine.py` measures with: models of real sizes, columns, rounds, floors, likeness, tables and a plot.

1. A column is a way to draw: diffusers' own pipeline, or this project's with words of `optimize`. All columns of a cell (a model, a
   batch, a number of steps) take turns within one process, in an order that is drawn anew for every round, after the same warm-up.
2. One that cannot be measured says why, in the table too; it never ends the run, and what was measured before is on the disk.
3. Everything that ours does goes through what a worker itself calls: `Loading`, then `prepare`, `encode`, `begin`, `step` and `decode`.

Written without a GPU at hand: what only CUDA runs (events, memory, profiles of kernels) was not run.
"""
