"""Adapters and embeddings by name, as the last look at the disk found them."""

from collections.abc import Mapping

from collodion.wire.jobs import AdapterKind, Failure, Reason
from collodion.worker.pipeline import LatentRefused
from collodion.worker.prompting.embeddings import Embedding, EmbeddingFiles
from collodion.worker.registry import AdapterSource


class AdapterFiles:
    """Any thread."""

    def __init__(self) -> None:
        self._sources: Mapping[str, AdapterSource] = {}

    def replace(self, sources: Mapping[str, AdapterSource]) -> None:
        """These are all there are, from now on."""
        self._sources = sources

    def find(self, name: str) -> AdapterSource:
        """The adapter of this name. Raises LatentRefused if there is none (any more)."""
        source = self._sources.get(name)
        if source is None or source.kind is AdapterKind.EMBEDDING:
            message = f"there is no adapter {name!r} on this worker"
            raise LatentRefused(Failure(reason=Reason.ADAPTER_NOT_FOUND, message=message))
        return source

    def embeddings(self) -> Mapping[str, Embedding]:
        """The embeddings, each read when it is asked for."""
        sources = self._sources.items()
        return EmbeddingFiles({name: one.path for name, one in sources if one.kind is AdapterKind.EMBEDDING})
