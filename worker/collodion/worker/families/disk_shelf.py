"""Models and adapters that lie on a disk: those of the settings, and all of a models directory."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from collodion.wire.jobs import AdapterInfo
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.device import Device
from collodion.worker.families.loading import Loading
from collodion.worker.optimize.observer import ObserverFor, unobserved
from collodion.worker.pipeline import AnyPipeline
from collodion.worker.registry import AdapterSource, ModelSource, ModelUnusable, Registry, read_model, scan
from collodion.worker.shelf import Contents, Progress, ShelvedModel

_PATIENCE_S = 5.0  # of one look: the first of a large collection takes minutes
_MOST_REFUSED = 1_000  # listed; all are logged
_log = logging.getLogger(__name__)


class DiskShelf:
    """See Shelf. Of two models with one name that of the settings counts. observer_for: see Loading."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        config: WorkerConfig,
        device: Device,
        observer_for: ObserverFor = unobserved,
    ) -> None:
        self._folders = folders
        self._directory = config.models_dir
        self._adapters = AdapterFiles()
        self._loading = Loading(config, device, self._adapters, observer_for)
        self._registry: Registry | None = None
        self._sources: dict[str, ModelSource] = {}
        self._described: dict[str, tuple[ModelSource, ShelvedModel]] = {}

    def look(self) -> Contents:
        """See Shelf."""
        adapters = self._look_through_directory()
        faults = self._refused()
        sources = dict(self._registry.models) if self._registry is not None else {}
        for name in self._folders:
            sources.pop(name, None)
            try:
                sources[name] = self._named(name)
            except ModelUnusable as error:
                faults[name] = ShelvedModel(name, None, fault=error.reason)
        self._adapters.replace(adapters)
        self._sources = sources
        self._described = {name: self._described_again(name, source) for name, source in self._sources.items()}
        models = {name: model for name, (_, model) in self._described.items()}
        return Contents(tuple({**models, **faults}.values()), tuple(map(_info, adapters.values())))

    def load(self, name: str, progress: Progress) -> AnyPipeline:
        """See Shelf. Raises ModelUnusable."""
        source = self._sources.get(name)
        if source is None:
            source = self._named(name)
        return self._loading.load(source, progress)

    def _named(self, name: str) -> ModelSource:
        """A model of the settings. Raises ModelUnusable."""
        if name not in self._folders:  # it was in the directory when it was asked for
            raise ModelUnusable(f"the model {name} is not there any more")
        return read_model(self._folders[name], name, self._registry.vaes if self._registry is not None else {})

    def _look_through_directory(self) -> Mapping[str, AdapterSource]:
        if self._directory is None:
            return {}
        before, self._registry = self._registry, scan(self._directory, self._registry, _PATIENCE_S)
        for refusal in set(self._registry.refusals) - set(before.refusals if before is not None else ()):
            _log.warning("not usable", extra={"reason": refusal.reason})
        return self._registry.adapters

    def _refused(self) -> dict[str, ShelvedModel]:
        """What lies there and cannot be used is listed, too, by its path: whoever put it there looks for it."""
        registry = self._registry
        if registry is None:
            return {}
        paths = {refusal: os.path.relpath(refusal.path, registry.directory) for refusal in registry.refusals}
        listed = list(paths.items())[:_MOST_REFUSED]
        return {path: ShelvedModel(path, None, fault=refusal.reason) for refusal, path in listed}

    def _described_again(self, name: str, source: ModelSource) -> tuple[ModelSource, ShelvedModel]:
        """Only what has changed: describing a model takes a while."""
        known = self._described.get(name)
        if known is not None and known[0] == source:
            return known
        size_bytes, edition = source.numbers * self._loading.number_bytes(source), str(hash(source.files))
        try:
            info = self._loading.describe(source)
        except ModelUnusable as error:
            _log.warning("not usable", extra={"reason": error.reason})
            return source, ShelvedModel(name, None, size_bytes, edition, error.reason)
        return source, ShelvedModel(name, info, size_bytes, edition)


def _info(source: AdapterSource) -> AdapterInfo:
    return AdapterInfo(name=source.name, kind=source.kind, base=source.base, size_bytes=source.size_bytes)
