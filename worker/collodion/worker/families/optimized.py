"""A model's optimisations: applied in their order, and what came of them.

What changes weights and modules comes first, on the model as it was loaded; then adapters are attached to what there is; then it is
compiled and captured, since both hold on to all of that. Packages that somebody may lack are imported only when they are asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from diffusers import AutoencoderKL

from collodion.wire.jobs import Optimization
from collodion.worker.adapters.adapters import Adapters
from collodion.worker.families.architecture import Architecture
from collodion.worker.optimize.attention import takes_masks, use_attention
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.modules import ReadyModule
from collodion.worker.optimize.observer import Observer
from collodion.worker.optimize.plan import Plan
from collodion.worker.optimize.precision import casting, name_of, settle_vae
from collodion.worker.optimize.ready import Maker, Ready
from collodion.worker.optimize.wishes import Compilation, Decoding, MemoryFormat, Quantization

_GRAPH_BYTES = 8 << 30  # device memory that graphs of one model may take


class Optimized:
    """Of one model that is being loaded, on the thread that loads it. Raises Unsuitable for what was asked for and cannot be.

    takes_masks: whether rows with prompts of different lengths may share a call. casting: what to call the denoiser in. modules: those
    whose calls go through what is ready, by their names in the pipeline.
    """

    def __init__(self, architecture: Architecture, plan: Plan, place: torch.device, observer: Observer) -> None:
        self.plan = plan
        self.observer = observer
        self.takes_masks = True
        self._architecture = architecture
        self._place = place
        self._done = (Optimization("dtype", name_of(plan.dtype)), *self._alter())
        self.casting: Callable[[], AbstractContextManager[object]] = casting(architecture.denoiser)
        self.ready = Ready(None, place, _GRAPH_BYTES, observer)
        self.modules: dict[str, ReadyModule] = {}

    @property
    def report(self) -> tuple[Optimization, ...]:
        """What is in force. Any thread."""
        stock = self.ready.stock
        if self.plan.cuda_graphs:
            graphs = Optimization("cuda_graphs", "on", f"{stock.shapes} captured, {stock.nbytes >> 20} MiB")
            return (*self._done, graphs)
        if self.plan.compile is not Compilation.OFF:
            return (*self._done, Optimization("ready", str(stock.shapes), "row numbers and sizes that are compiled"))
        return self._done

    def finish(self, adapters: Adapters) -> None:
        """After adapters were attached: what is compiled or captured holds on to the modules as they are then."""
        compiler: Maker | None = None
        denoiser = self._architecture.denoiser
        if self.plan.compile is Compilation.REGIONAL:
            if self._architecture.ragged:
                raise Unsuitable(
                    "compile=regional: each batch of this model has lengths of its own, for which nothing is compiled"
                )
            from collodion.worker.optimize.compilation import BlockCompiler, compile_blocks, repeated_blocks

            self._done = (*self._done, compile_blocks(denoiser))
            adapters.fix(self._architecture.denoiser_part, repeated_blocks(denoiser))
            compiler = BlockCompiler(denoiser, self.observer)
        maker = compiler
        if self.plan.cuda_graphs:
            from collodion.worker.optimize.graphs import CudaGraphs

            maker = CudaGraphs(self._place, compiler)
        self.ready = Ready(maker, self._place, _GRAPH_BYTES, self.observer)
        if self.plan.cuda_graphs:
            self.modules = dict(self._through_graphs())

    def _alter(self) -> Iterator[Optimization]:
        architecture, plan, place = self._architecture, self.plan, self._place
        denoiser = architecture.denoiser
        yield settle_vae(architecture, plan.vae_dtype, place)
        if plan.quantize is not Quantization.OFF:
            from collodion.worker.optimize.quantization import quantize

            yield quantize(denoiser, plan.quantize, place)
        if plan.memory_format is not MemoryFormat.CONTIGUOUS:
            from collodion.worker.optimize.memory_format import lay_channels_last

            yield lay_channels_last(denoiser, architecture.pipeline.vae)
        if plan.fuse_qkv:
            from collodion.worker.optimize.projections import fuse_projections

            yield fuse_projections(denoiser)
        if plan.deepspeed:
            from collodion.worker.optimize.deepspeed_blocks import inject_deepspeed

            yield inject_deepspeed(denoiser, place, plan.dtype)
            self.takes_masks = False
        else:  # torch's own choice is named, too: diffusers would go by the environment
            yield use_attention(denoiser, plan.attention, place, plan.dtype)
            self.takes_masks = takes_masks(denoiser)

    def _through_graphs(self) -> Iterator[tuple[str, ReadyModule]]:
        """The two ends. Where prompts may have any length, so do the calls of text encoders, and no graph would fit them."""
        architecture = self._architecture
        if not (architecture.any_lengths or architecture.ragged):
            for name in architecture.text_encoders:
                encoder = getattr(architecture.pipeline, name)
                if encoder is not None:
                    yield name, ReadyModule(name, encoder, self.ready)
        vae = architecture.pipeline.vae
        # Qwen-Image's keeps frames of a film between calls of its parts. Two graphs never run at a time, since they share their memory.
        if isinstance(vae, AutoencoderKL) and self.plan.decode is not Decoding.BESIDE:
            yield "vae", ReadyModule("vae", vae.decoder, self.ready)
