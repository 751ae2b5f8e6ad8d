"""A whole server on this machine: its processes started, watched, started again and stopped. Standard library only.

It imports nothing of the other processes: each is `python -m collodion.<role>`, and says by its announcement in the
run directory (`collodion.process.running`) that it is ready.
"""
