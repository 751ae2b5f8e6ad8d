"""Why a server cannot be run here."""


class StackError(Exception):
    """The server cannot be run, or not any longer. `is_yours`: a setting or an installation is to be changed."""

    def __init__(self, message: str, *, is_yours: bool) -> None:
        super().__init__(message)
        self.is_yours = is_yours
