"""Model families, one file each. Only the family that a configured model needs is imported."""

from collodion.worker.optimize import unasked

unasked.hide()  # here, because every way to diffusers leads through this package
