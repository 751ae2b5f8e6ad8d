"""The one error of this room."""


class ModelUnusable(Exception):
    """A model, adapter or VAE that cannot be used. `reason` is a sentence that names the file and what is wrong with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
