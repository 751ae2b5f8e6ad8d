"""Model families, one file each. Only the family that a configured model needs is imported."""
