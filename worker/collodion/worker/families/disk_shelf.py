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
from collodion.worker.pipeline import AnyPipeline
from collodion.worker.registry import AdapterSource, ModelSource, ModelUnusable, Registry, read_model, scan
from collodion.worker.shelf import Contents, Progress, ShelvedModel

_MOST_REFUSED = 1_000  # listed; all are logged
_log = logging.getLogger(__name__)


class DiskShelf:
    """See Shelf. Of two models with one name that of the settings counts."""

    def __init__(self, folders: Mapping[str, Path], config: WorkerConfig, device: Device) -> None:
        self._folders = folders
        self._directory = config.models_dir
        self._number_bytes = device.dtype.itemsize
        self._adapters = AdapterFiles()
        self._loading = Loading(config, device, self._adapters)
        self._registry: Registry | None = None
        self._sources: dict[str, ModelSource] = {}
        self._described: dict[str, tuple[ModelSource, ShelvedModel]] = {}

    def look(self) -> Contents:
        """See Shelf."""
        faults: dict[str, ShelvedModel] = {}
        sources: dict[str, ModelSource] = {}
        for name, folder in self._folders.items():
            try:
                sources[name] = read_model(folder, name)
            except ModelUnusable as error:
                faults[name] = ShelvedModel(name, None, fault=error.reason)
        adapters: Mapping[str, AdapterSource] = {}
        if self._directory is not None:
            before, self._registry = self._registry, scan(self._directory, self._registry)
            sources = {**self._registry.models, **sources}
            adapters = self._registry.adapters
            faults = {**self._refused(self._registry), **faults}
            for refusal in set(self._registry.refusals) - set(before.refusals if before is not None else ()):
                _log.warning("not usable", extra={"reason": refusal.reason})
        self._adapters.replace(adapters)
        self._sources = {name: source for name, source in sources.items() if name not in faults}
        self._described = {name: self._described_again(name, source) for name, source in self._sources.items()}
        models = {name: model for name, (_, model) in self._described.items()}
        return Contents(tuple({**models, **faults}.values()), tuple(map(_info, adapters.values())))

    def load(self, name: str, progress: Progress) -> AnyPipeline:
        """See Shelf. Raises ModelUnusable."""
        source = self._sources.get(name)
        if source is None:
            source = read_model(self._folders[name], name)
        return self._loading.load(source, progress)

    def _refused(self, registry: Registry) -> dict[str, ShelvedModel]:
        """What lies there and cannot be used is listed, too, by its path: whoever put it there looks for it."""
        paths = {refusal: os.path.relpath(refusal.path, registry.directory) for refusal in registry.refusals}
        listed = list(paths.items())[:_MOST_REFUSED]
        return {path: ShelvedModel(path, None, fault=refusal.reason) for refusal, path in listed}

    def _described_again(self, name: str, source: ModelSource) -> tuple[ModelSource, ShelvedModel]:
        """Only what has changed: describing a model takes a while."""
        known = self._described.get(name)
        if known is not None and known[0] == source:
            return known
        size_bytes, edition = source.numbers * self._number_bytes, str(hash(source.files))
        try:
            info = self._loading.describe(source)
        except ModelUnusable as error:
            return source, ShelvedModel(name, None, size_bytes, edition, error.reason)
        return source, ShelvedModel(name, info, size_bytes, edition)


def _info(source: AdapterSource) -> AdapterInfo:
    return AdapterInfo(name=source.name, kind=source.kind, base=source.base, size_bytes=source.size_bytes)
