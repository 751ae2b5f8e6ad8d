"""What the blocking client and that for asyncio have in common: how they are made."""

from abc import ABC, abstractmethod

from collodion.client.channel import DEFAULT_SERVER, Connection
from collodion.client.retries import REATTACHING, RetryPolicy


class BaseClient(ABC):
    """A connection to a server; made on the first call, and again whenever it broke.

    Args:
        server: its address, `host:port`.
        tenant: who asks, until there is authentication; the server's default if empty. A tenant sees its own jobs
            only.
        timeout_s: for every answer, and for the first event of a stream; None waits for ever.
        silence_s: after this long without a word on a stream, the server is asked whether the job still runs. See
            `Connection`.
        retries: for calls; `reattaching`: for streams of a job that was accepted.

    Every method raises `CollodionError` (its tree is in `collodion.client.errors`).
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        tenant: str = "",
        timeout_s: float | None = 10.0,
        silence_s: float | None = 30.0,
        retries: RetryPolicy = RetryPolicy(),
        reattaching: RetryPolicy = REATTACHING,
    ) -> None:
        self._connect(Connection(server, tenant, timeout_s, silence_s, retries, reattaching))

    @abstractmethod
    def _connect(self, connection: Connection) -> None:
        """Makes the channel, which connects when it is first used."""
