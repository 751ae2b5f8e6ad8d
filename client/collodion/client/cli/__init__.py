"""The command `collodion`. What a script may want goes to standard output; what a person watches, to standard error."""

from collodion.client.cli.main import main

__all__ = ["main"]
