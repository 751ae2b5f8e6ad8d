"""How fast the engine is, beside diffusers' own pipeline in the same run: `make bench-engine`.

    engine.py                             what suits this machine: a GPU with sd15 and sdxl, a CPU with shapes and middle
    engine.py --quick --profile           a minute, and where a step's time goes
    engine.py --models mine=/path/to/folder --columns diffusers auto "both:compile=regional,quantize=int8"

In leases of eight minutes, on a GPU (what is not reached is listed, what was measured is on the disk):

    engine.py --models sd15 --columns diffusers plain auto --profile --budget-s 400 --out $OUT
    engine.py --models sdxl --columns diffusers plain auto --profile --budget-s 400 --out $OUT
    engine.py --models sd15 sdxl --columns diffusers all all+fp8 compile --batches 1 --no-saturation --budget-s 400 --out $OUT
    engine.py --models sd15 sdxl --columns diffusers graphs channels-last fuse-qkv xformers sdpa-cudnn deepspeed int8 fp8 step-cache \\
        --batches 1 8 --steps --no-saturation --parts likeness speed --budget-s 400 --out $OUT
    engine.py --models sd3 flux --columns diffusers plain auto --batches 1 2 4 --steps --no-saturation --budget-s 400 --out $OUT

For every model (random weights of the real architecture where there are none on the disk), batch and number of steps, in interleaved
rounds: seconds a picture, pictures and steps a second, the ratio to diffusers' of the same round, the share of the floor (operations that
are counted over a matrix rate that is measured), the gap between steps, peak memory. For every column: what its start takes, what took
effect, how far its pictures are from float32. And a batch of strangers beside a uniform one. FOLDER/engine.json is written anew after
everything that was measured, FOLDER/engine.txt and engine.png at the end, or by `--show FOLDER/engine.json` of a run that was killed.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from collodion.process.config import ConfigError
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.device import choose_device
from collodion.worker.families.loading import Loading
from collodion.worker.registry import ModelUnusable
from engine_bench.columns import columns_of
from engine_bench.floor import matrix_rates
from engine_bench.machine import machine
from engine_bench.model_bench import ModelBench
from engine_bench.options import Settings, parser, settings_of
from engine_bench.our_side import config_for
from engine_bench.plots import plot
from engine_bench.results import Progress, Results
from engine_bench.subjects import subject_of
from engine_bench.tables import model_text, text_of


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 2 if what was asked for cannot be."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    arguments = parser(__doc__ or "").parse_args(argv)
    if arguments.show is not None:
        write(json.loads(arguments.show.read_text())["figures"], arguments.show.parent)
        return 0
    try:
        settings = settings_of(arguments)
        torch.set_num_threads(settings.threads)
        results = Results(settings.out, machine(settings.place))
        with tempfile.TemporaryDirectory(prefix="engine") as scratch:
            run(settings, results, Progress(), Path(scratch))
    except (ConfigError, ModelUnusable) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 2
    print(f"\n{settings.out / 'engine.json'}")
    write(results.figures, settings.out)
    return 0


def write(figures: Mapping[str, Any], folder: Path) -> None:
    """The table and the plot of what was measured."""
    (folder / "engine.txt").write_text(text_of(figures))
    print(folder / "engine.txt")
    drawn = plot(figures["models"], folder / "engine.png")
    if drawn is not None:
        print(drawn)


def run(settings: Settings, results: Results, progress: Progress, folder: Path) -> None:
    """Model by model; each one's tables are printed when it is done. Raises ConfigError, ModelUnusable before anything is measured."""
    config = config_for(columns_of(["plain"])[0], settings, (64, 64), 1, folder)
    describe = Loading(config, choose_device(config), AdapterFiles()).describe
    subjects = [subject_of(word, folder, describe, settings.size) for word in settings.models]
    progress.begin(f"rate of matrices, {settings.dtype}")
    rates = matrix_rates(settings.place, settings.torch_dtype, settings.clock)
    results.figures |= {
        "device": results.document["environment"].get("gpu", {}).get("name", results.document["environment"]["cpu"]),
        "dtype": settings.dtype,
        "rounds": settings.rounds,
        "clock": settings.clock_name,
        "threads": settings.threads,
        "most": settings.most,
        "matrix_rates": rates,
        "models": [],
    }
    for subject in subjects:
        bench = ModelBench(settings, subject, max(rates.values()), folder, results, progress)
        try:
            bench.run()
        except KeyboardInterrupt:
            print("engine: interrupted; what was measured is kept", file=sys.stderr)
            return
        finally:
            print(f"\n{model_text(results.figures['models'][-1])}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
