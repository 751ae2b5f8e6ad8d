"""Adapters (LoRA and its relatives): read from files, kept in banks on the device, applied row by row. See `adapters.py`."""
