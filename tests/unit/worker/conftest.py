"""A Stable Diffusion pipeline so small that thousands of its evaluations cost seconds, and an engine driven round by round."""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from collodion.wire.jobs import LatentId, Parameters, Stage, StoredImage
from collodion.wire.to_worker import JobOrder, Membership
from collodion.worker.config import WorkerConfig
from collodion.worker.engine import Engine
from collodion.worker.holdings import Holdings
from collodion.worker.inbox import Inbox
from collodion.worker.latent import ENDED, Latent, WorkerJob
from collodion.worker.outbox import Outbox
from collodion.worker.preparing import prepare
from collodion.worker.residency import Residents

TOKENIZER = Path(__file__).parents[3] / "worker" / "collodion" / "worker" / "shapes" / "tokenizer"


def make_parameters(**fields: Any) -> Parameters:
    """A small job; any field may be overridden."""
    sensible = {
        "model": "tiny",
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "sampler": "euler",
        "guidance_scale": 5.0,
        "seed": 7,
        "images": 1,
    }
    return Parameters(**{**sensible, **fields})


class Recorder:
    """In the place of the threads around the engine: keeps pictures, and the latents whose preview was wanted."""

    full = False

    def __init__(self) -> None:
        self.pictures: dict[LatentId, Any] = {}
        self.previews: list[tuple[LatentId, int]] = []

    def keep(self, latent: Latent, picture: Any) -> None:
        self.pictures[latent.id] = picture
        image = StoredImage(
            index=latent.id.image, seed=latent.seed, key="", mime_type="", width=0, height=0, size_bytes=0, sha256=""
        )
        latent.finish(image)

    def offer(self, latent: Latent) -> None:
        self.previews.append((latent.id, latent.steps))


class Spy:
    """A pipeline that notes, for each seed, its evaluations and final latent, and the order of its lanes."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._seeds: dict[int, tuple[Any, int]] = {}  # holds the states, so that no id is used twice
        self.evaluations: collections.Counter[int] = collections.Counter()
        self.latents: dict[int, Any] = {}
        self.lanes: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def encode(self, plans: Sequence[Any]) -> Any:
        self.lanes.append(("encode", len(plans)))
        return self._pipeline.encode(plans)

    def begin(self, plan: Any, conditioning: Any, seed: int) -> Any:
        state = self._pipeline.begin(plan, conditioning, seed)
        self._seeds[id(state)] = state, seed
        self.evaluations[seed] = 0
        return state

    def step(self, states: Sequence[Any]) -> Any:
        stepped = self._pipeline.step(states)
        self.lanes.append(("step", len(states)))
        self.evaluations.update(self._seeds[id(state)][1] for state in states)
        return stepped

    def decode(self, states: Sequence[Any]) -> Any:
        self.lanes.append(("decode", len(states)))
        for state in states:
            self.latents[self._seeds[id(state)][1]] = state.trajectory.latent
        return self._pipeline.decode(states)


class EngineDriver:
    """An engine without threads: the test says what is wished for, and runs it round by round.

    preparing: what becomes of a new job; it is prepared at once unless the test wants it later.
    """

    def __init__(self, pipeline: Any, preparing: Callable[[WorkerJob], WorkerJob] = prepare, **settings: Any) -> None:
        self.config = WorkerConfig(**{"max_batch": 16, **settings})
        self.inbox, self.outbox, self.recorder = Inbox("me"), Outbox(), Recorder()
        self.failures: list[str] = []
        self._preparing = preparing
        self.models = Residents()
        self._model = pipeline.info.name
        self.models.keep(self._model, pipeline, 0.0)
        self.holdings = Holdings(lambda order: self._prepared(WorkerJob(order)))
        self.engine = Engine(
            self.config,
            self.models,
            self.holdings,
            self.inbox,
            self.outbox,
            self.recorder,
            self.recorder,
            self._prepared,
            self.failures.append,
        )
        self._numbers = itertools.count(1)
        self.orders: dict[str, JobOrder] = {}

    def _prepared(self, job: WorkerJob) -> WorkerJob:
        self.models.equip(job)
        return self._preparing(job) if job.pipeline is not None or not self.models.knows(job.model) else job

    def order(self, job: str, preview_interval: int = 0, **fields: Any) -> None:
        self.orders[job] = JobOrder(
            job=job, parameters=make_parameters(**{"model": self._model, **fields}), preview_interval=preview_interval
        )

    def wish(
        self,
        running: Sequence[LatentId],
        parked: Sequence[LatentId] = (),
        caps: Sequence[int] = (),
        after: tuple[LatentId, int] | None = None,
    ) -> None:
        jobs = dict.fromkeys(latent.job for latent in (*running, *parked))
        self.inbox.offer(
            Membership(
                scheduler="scheduler",
                worker="me",
                number=next(self._numbers),
                running=tuple(running),
                caps=tuple(caps),
                parked=tuple(parked),
                after=after,
                orders=tuple(self.orders[job] for job in jobs),
            )
        )
        self.engine.wake()

    def latent(self, latent: LatentId) -> Latent:
        return next(held for held in self.outbox.held.latents if held.id == latent)

    def finish(self, bound: int = 1_000) -> None:
        """Runs rounds until every latent that is to run has ended."""
        for _ in range(bound):
            if not self.engine.round():
                self.engine.lanes.settle(0)  # what the loop does before it rests
            if all(latent.stage in ENDED for latent in self.holdings.line):
                return
        raise AssertionError(f"still at it after {bound} rounds: {[str(one.stage) for one in self.holdings.line]}")

    def draw(self, jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Runs these jobs of one image together; their pictures by name."""
        for job, fields in jobs.items():
            self.order(job, **fields)
        self.wish([LatentId(job, 0) for job in jobs])
        self.finish()
        assert all(latent.stage is Stage.DONE for latent in self.outbox.held.latents), self.failures
        return {job: self.recorder.pictures[LatentId(job, 0)] for job in jobs}


@pytest.fixture(scope="session")
def drive() -> Iterator[Callable[..., EngineDriver]]:
    """Makes an engine for a pipeline."""
    made: list[EngineDriver] = []

    def make(pipeline: Any, **settings: Any) -> EngineDriver:
        made.append(EngineDriver(pipeline, **settings))
        return made[-1]

    yield make
    for driver in made:
        driver.outbox.close()


@pytest.fixture(scope="session")
def spy() -> Callable[[Any], Spy]:
    """Wraps a pipeline."""
    return Spy


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with random weights: 8x8 latents, 64x64 pictures."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
    )
    with torch.no_grad():  # enough for prompt and guidance to matter, not so much that rounding grows from step to step
        unet.conv_out.weight.mul_(2)
        text_encoder.get_input_embeddings().weight.mul_(50)
        vae.decoder.conv_out.weight.mul_(1)
        for name, weight in unet.named_parameters():
            if "attn2.to_" in name:
                weight.mul_(3)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """The tiny model as our pipeline."""
    return load_tiny(tiny_folder)


@pytest.fixture(scope="session")
def reproducible_tiny(tiny_folder: Path) -> Any:
    """The same, padded."""
    return load_tiny(tiny_folder, reproducible=True, max_batch=5, decode_batch=2, encode_batch=2)


@pytest.fixture(scope="session")
def shapes() -> Any:
    """The embedded model as our pipeline."""
    return load("shapes")


def load_tiny(folder: Path, **settings: Any) -> Any:
    return load(f"tiny={folder}", **settings)


def load(model: str, **settings: Any) -> Any:
    from collodion.worker.models import load_models

    _, pipelines = load_models(WorkerConfig(models=(model,), device="cpu", threads=1, **settings))
    return pipelines[model.split("=")[0]]


@pytest.fixture(scope="session")
def reference(tiny_folder: Path) -> Any:
    """The tiny model as diffusers' own pipeline, whose pictures and latents are the measure of ours."""
    return diffusers_reference(tiny_folder)


@pytest.fixture(scope="session")
def shapes_reference() -> Any:
    """The embedded model as diffusers' own pipeline."""
    return diffusers_reference(TOKENIZER.parent)


@pytest.fixture(scope="session")
def diffusers_draws() -> Callable[[Any, dict[str, Any]], tuple[Any, Any]]:
    """Draws with a reference pipeline: latent (C, H, W) and picture (H, W, 3) in 0..1."""
    import diffusers
    import torch

    from collodion.worker.sampling.catalog import SAMPLERS

    def draw(pipeline: Any, fields: dict[str, Any]) -> tuple[Any, Any]:
        entry = SAMPLERS[fields["sampler"]]
        scheduler = getattr(diffusers, entry.scheduler)
        pipeline.scheduler = scheduler.from_config(pipeline.own_config, **entry.overrides)
        latents = pipeline(
            fields["prompt"],
            negative_prompt=fields["negative_prompt"] or None,
            num_inference_steps=fields["steps"],
            guidance_scale=fields["guidance_scale"],
            generator=torch.Generator().manual_seed(fields["seed"]),
            output_type="latent",
        ).images
        with torch.no_grad():
            decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        return latents[0], pipeline.image_processor.postprocess(decoded, output_type="np")[0]

    return draw


def diffusers_reference(folder: Path) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.own_config = dict(pipeline.scheduler.config)
    return pipeline
