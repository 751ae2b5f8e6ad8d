"""What of a job needs no device: its sampler's table, its prompts, its adapters' files, the picture that it begins from."""

from collections.abc import Mapping
from typing import Any

from collodion.wire.jobs import Failure, Parameters, PromptSyntax, Reason
from collodion.worker.adapters.adapters import Adapters
from collodion.worker.adapters.loaded import Use
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.architecture import Architecture, Prompt
from collodion.worker.families.denoising import SamplingPlan
from collodion.worker.families.start import Scene
from collodion.worker.pipeline import LatentRefused
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.sampling.catalog import SamplerRefused
from collodion.worker.sampling.probing import probe
from collodion.worker.uploads import Uploads

Remarks = list[tuple[str, str]]
"""Warnings' reasons and messages."""


class JobReader:
    """Makes plans. Any thread."""

    def __init__(self, architecture: Architecture, adapters: Adapters, files: AdapterFiles, uploads: Uploads) -> None:
        self._architecture = architecture
        self._adapters = adapters
        self._files = files
        self._uploads = uploads
        self._scheduler_config: Mapping[str, Any] = architecture.pipeline.scheduler.config

    def plan(self, parameters: Parameters) -> SamplingPlan:
        """Raises LatentRefused."""
        timetable = self._architecture.timetable(parameters)
        try:
            table = probe(
                parameters.sampler, parameters.steps, self._scheduler_config, parameters.skipped_steps, timetable
            )
        except SamplerRefused as refused:
            raise LatentRefused(Failure(reason=Reason.SAMPLER_REFUSED, message=refused.reason)) from refused
        remarks: Remarks = []
        uses = self._uses(parameters, remarks)
        prompts = self._prompts(parameters, uses, remarks)
        return SamplingPlan(
            parameters,
            (*table.step_of, table.steps),
            tuple(remarks),
            table=table,
            prompts=prompts,
            uses=uses,
            scene=self._scene(parameters),
        )

    def _prompts(self, parameters: Parameters, uses: tuple[Use, ...], remarks: Remarks) -> tuple[Prompt, ...]:
        texts = [parameters.prompt]
        if parameters.guided and self._architecture.negative_prompts:
            texts.append(parameters.negative_prompt)
        weighted = parameters.prompt_syntax is PromptSyntax.WEIGHTED
        embeddings = self._files.embeddings() if weighted else {}
        prompts = self._architecture.read(texts, parameters.prompt_syntax, embeddings, uses)
        remarks.extend(dict.fromkeys(remark for prompt in prompts for remark in prompt.warnings))
        remarks.extend(self._architecture.remarks(parameters))
        return tuple(prompts)

    def _uses(self, parameters: Parameters, remarks: Remarks) -> tuple[Use, ...]:
        uses = []
        for lora in parameters.loras:
            try:
                adapter = self._adapters.load(self._files.find(lora.name).path)
            except ModelUnusable as unusable:
                raise LatentRefused(Failure(reason=Reason.ADAPTER_UNUSABLE, message=unusable.reason)) from unusable
            remarks.extend(("ADAPTER_NOTE", f"{lora.name}: {note}") for note in adapter.notes)
            uses.append(adapter.at(lora.scale))
        return tuple(uses)

    def _scene(self, parameters: Parameters) -> Scene | None:
        size = parameters.width, parameters.height
        sees_masks = self._architecture.sees_masks
        if not parameters.init_image:
            return Scene.blank(size) if sees_masks else None
        mask = self._uploads.mask(parameters.mask_image) if parameters.mask_image else None
        scene = Scene.read(self._architecture.vae, self._uploads.picture(parameters.init_image), mask, size)
        return scene.all_anew() if sees_masks else scene
