"""Why an optimisation is not in force."""


class Unsuitable(Exception):
    """It was asked for and cannot work here. `reason`: a sentence for the person who asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
