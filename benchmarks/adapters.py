"""What adapters by the row cost: a step of a UNet with 1, 4 and 16 different ones in a batch of 16, beside the same batch with none.

Columns, in turns within one run (their order is drawn anew in every round), the same inputs for all:

    bare      the model as diffusers makes it, without this project's hands on it
    none      attached, and nobody has an adapter
    shared    every row has the same one
    1 row     one row has one, the others none
    4, 16     so many different ones, in turns; ranks 4, 8, 16 and 32 in turns if --rank is mixed

Two kinds of adapters: of attention (with its feed-forward layers and projections, what most trainers change), and of that and every
convolution (LoCon). The share of a low-rank product in a layer's arithmetic is rank * (in + out) / (in * out), so it falls as models get
wider: `shapes` has layers of 64 and 128, `middle` of 96 to 384, `wide` of 320 and 640 (a piece of SD 1).

Beside it: what an adapter takes of memory, and what it takes to read one, to bring it to the device and to choose rows.

    python benchmarks/adapters.py --json result.json
    python benchmarks/adapters.py --device cuda --dtype float16 --models sd1 sdxl       (real sizes, random weights; needs a GPU)
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import save_file

import common
from collodion.worker.adapters.adapters import AdapterBudgets, Adapters
from collodion.worker.adapters.loaded import Use
from collodion.worker.adapters.sites import Site

SHAPES = common.ROOT / "worker/collodion/worker/shapes/unet"
MIDDLE = {
    "block_out_channels": (96, 192, 384),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 256,
    "attention_head_dim": 6,
}
WIDE = {
    "block_out_channels": (320, 640),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
}
SD1 = {"cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MODELS: Mapping[str, tuple[Mapping[str, Any] | None, int]] = {
    "shapes": (None, 8),
    "middle": (MIDDLE, 16),
    "wide": (WIDE, 16),
    "sd1": (SD1, 64),
    "sdxl": (SDXL, 128),
}
"""A UNet's configuration (None: the embedded model's), and the width of its latents."""
PLENTY = 64 << 30  # bytes
RANKS = (4, 8, 16, 32)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
KINDS = {"attention": "attentions.", "all": ""}  # what of a path is changed
LINE = "{model:7s} {kind:9s} {column:7s} {median:9.3f} ms  ({least:.3f} to {most:.3f})  {overhead:+6.1f} %"


class Bench:
    """A UNet twice, with and without adapters attached, and inputs for both."""

    def __init__(
        self, model: str, rows: int, device: str = "cpu", dtype: torch.dtype = torch.float32, clock: str = "wall"
    ) -> None:
        self.clock = CLOCKS[clock]
        config, size = MODELS[model]
        torch.manual_seed(0)
        made = UNet2DConditionModel(**config) if config is not None else UNet2DConditionModel.from_pretrained(SHAPES)
        self.bare = made.eval().requires_grad_(False).to(device, dtype)
        self.unet = UNet2DConditionModel(**made.config).eval().requires_grad_(False).to(device, dtype)
        self.unet.load_state_dict(self.bare.state_dict())
        self.adapters = Adapters({"unet": self.unet}, AdapterBudgets(PLENTY, PLENTY), every_row=False)
        self.cuda = device.startswith("cuda")
        call = {
            "sample": torch.randn(rows, 4, size, size),
            "timestep": torch.linspace(1, 900, rows),
            "encoder_hidden_states": torch.randn(rows, 77, made.config.cross_attention_dim),
        }
        self.call: dict[str, Any] = {name: tensor.to(device, dtype) for name, tensor in call.items()}
        if made.config.addition_embed_type == "text_time":
            added = {"text_embeds": torch.randn(rows, 1280), "time_ids": torch.ones(rows, 6)}
            self.call["added_cond_kwargs"] = {name: tensor.to(device, dtype) for name, tensor in added.items()}

    def timed(self, action: Callable[[], object]) -> float:
        """Milliseconds, the device's work included."""
        self._wait()
        began = self.clock()
        action()
        self._wait()
        return (self.clock() - began) * 1e3

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def write_adapter(folder: Path, sites: Mapping[str, Site], kind: str, rank: int, seed: int) -> Path:
    """A file of random numbers, as diffusers lays it out, in float16 as people save them."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for path, site in sites.items():
        if KINDS[kind] in path:
            down = torch.randn(rank, *site.shape[1:], generator=generator) * 0.01
            up = torch.randn(site.shape[0], rank, *[1] * (len(site.shape) - 2), generator=generator) * 0.01
            tensors[f"unet.{path}.lora_A.weight"], tensors[f"unet.{path}.lora_B.weight"] = down.half(), up.half()
    file = folder / f"{kind}-{rank}-{seed}.safetensors"
    save_file(tensors, file)
    return file


def cycled(uses: list[Use], rows: int) -> list[tuple[Use, ...]]:
    """These in turns."""
    return [(uses[row % len(uses)],) for row in range(rows)]


def columns(uses: list[Use], rows: int) -> dict[str, list[tuple[Use, ...]]]:
    """What the rows have, by column."""
    made: dict[str, list[tuple[Use, ...]]] = {
        "none": [()] * rows,
        "shared": cycled(uses[:1], rows),
        "1 row": [(uses[0],), *[()] * (rows - 1)],
    }
    return made | {str(count): cycled(uses[:count], rows) for count in (4, 16) if count <= rows}


def compare(bench: Bench, name: str, kind: str, uses: list[Use], rounds: int) -> Iterator[dict[str, Any]]:
    """Medians in milliseconds for one call of the model, by column; overhead in per cent of "none"."""
    rows = len(bench.call["sample"])
    chosen = {column: bench.adapters.select("unet", each) for column, each in columns(uses, rows).items()}

    def step(column: str) -> None:
        model = bench.bare if column == "bare" else bench.unet
        with nullcontext() if column == "bare" else bench.adapters.applied(chosen[column]):
            model(**bench.call, return_dict=False)

    order = ["bare", *chosen]
    samples: dict[str, list[float]] = {column: [] for column in order}
    for turn in range(-2, rounds):
        random.shuffle(order)
        for column in order:
            took = bench.timed(lambda column=column: step(column))  # type: ignore[misc]
            if turn >= 0:
                samples[column].append(took)
    for column, times in samples.items():
        pairs = zip(times, samples["none"], strict=True)
        overhead = statistics.median(mine / none for mine, none in pairs) - 1
        case = {"model": name, "kind": kind, "column": column, **common.spread(times), "overhead": overhead * 100}
        print(LINE.format(**case))
        yield case


def costs(bench: Bench, files: list[Path]) -> dict[str, Any]:
    """Milliseconds to read a file, to bring it to the device, and to choose the rows of a batch; and bytes of each adapter."""
    adapters, rows = bench.adapters, len(bench.call["sample"])
    uses: list[Use] = []
    adapters.bank.clear()
    adapters.bank.budget_bytes = PLENTY
    reading = [bench.timed(lambda file=file: uses.append(adapters.load(file).at(1.0))) for file in files]  # type: ignore[misc]
    adapters.select("unet", [tuple(uses)])  # all pools have room now
    needed = adapters.bank.allocated
    changes = [use.adapter.components["unet"] for use in uses]
    for component, key in list(adapters.bank.resident):
        adapters.bank._drop(component, key)
    uploading = [bench.timed(lambda use=use: adapters.select("unet", [(use,)])) for use in uses]  # type: ignore[misc]
    selecting = [bench.timed(lambda: adapters.select("unet", cycled(uses, rows))) for _ in range(9)]
    return {
        "read_ms": common.spread(reading),
        "upload_ms": common.spread(uploading),
        "select_ms": common.spread(selecting),
        "file_bytes": statistics.median(file.stat().st_size for file in files),
        "host_bytes": statistics.median(change.nbytes for change in changes),
        "device_bytes": needed / len(uses),
    }


def weight_bytes(bench: Bench) -> int:
    """Of the model itself."""
    return sum(parameter.nbytes for parameter in bench.unet.parameters())


def main() -> None:
    """Prints one line a case, then all of them with the environment."""
    parser = common.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["shapes", "middle", "wide"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rank", default="16", help="of every adapter, or mixed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: of this process, on a machine that others use"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    ranks = RANKS if arguments.rank == "mixed" else (int(arguments.rank),)
    cases: list[dict[str, Any]] = []
    memory: dict[str, Any] = {}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            bench = Bench(name, arguments.rows, arguments.device, getattr(torch, arguments.dtype), arguments.clock)
            for kind in arguments.kinds:
                count = min(16, arguments.rows)
                made = ((ranks[seed % len(ranks)], seed) for seed in range(count))
                sites = bench.adapters.sites["unet"]
                files = [write_adapter(Path(folder), sites, kind, rank, seed) for rank, seed in islice(made, count)]
                memory[f"{name} {kind}"] = costs(bench, files) | {"model_bytes": weight_bytes(bench)}
                uses = [bench.adapters.load(file).at(0.7) for file in files]
                cases += compare(bench, name, kind, uses, arguments.rounds)
            bench.adapters.close()
    settings = {
        key: getattr(arguments, key) for key in ("rows", "rank", "rounds", "threads", "clock", "device", "dtype")
    }
    figures = {**settings, "device_name": _device_name(arguments.device), "cases": cases, "costs": memory}
    common.report("adapters", figures, arguments.json)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


if __name__ == "__main__":
    main()
