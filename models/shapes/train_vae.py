"""Train the picture codec: `python -m models.shapes.train_vae`. Stop it with Ctrl-C at any time and start it again to go on.

The loss is the mean absolute error of each pixel, five times as heavy where the thing is and along its edge (backgrounds are most of a
picture and easy), plus a small divergence from the unit normal, and the latent is sampled, so that the decoder bears the small errors
of a denoised latent.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tqdm import tqdm  # type: ignore[import-untyped]

from models.shapes.checkpoint import Run
from models.shapes.draw import draw, sample
from models.shapes.parts import new_vae

PICTURES = 40_000
BATCH = 32
PEAK_RATE = 1.5e-3
FOREGROUND_WEIGHT = 5.0
DIVERGENCE_WEIGHT = 3e-4
CODEC = "codec.safetensors"
"""The finished codec's weights, with standardised latents."""


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 3, 32, 32) and foreground shares (count, 1, 32, 32), both uint8, from the training part."""
    rng = np.random.default_rng(seed)
    pairs = [draw(sample(rng, held_out=False), rng) for _ in range(count)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    foreground = torch.from_numpy(np.stack([np.rint(255 * share) for _, share in pairs]).astype(np.uint8))
    return pictures, foreground[:, None]


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures as the float32 in -1..1 that the codec takes."""
    return pictures.float() / 127.5 - 1


def loss_of(vae: AutoencoderKL, pictures: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """The scalar training loss of one batch."""
    target = as_input(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(target).latent_dist
        restored = vae.decode(posterior.sample()).sample.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    near = torch.nn.functional.max_pool2d(foreground.float() / 255, 3, stride=1, padding=1)
    weight = 1 + (FOREGROUND_WEIGHT - 1) * near
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss: torch.Tensor = (weight * (restored - target).abs()).mean() + DIVERGENCE_WEIGHT * divergence
    return loss


def rate(step: int, steps: int, peak: float) -> float:
    """200 steps of warming up, then half a cosine down to a fiftieth of the peak."""
    if step < 200:
        return peak * (step + 1) / 200
    done = min(1.0, (step - 200) / max(1, steps - 200))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 over the uint8 pictures, exactly, by changing the two 1x1 convolutions around it."""
    means = torch.cat([vae.encode(as_input(some)).latent_dist.mean for some in torch.split(pictures, 100)])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[: len(scale)] /= scale[:, None, None, None]
    into.bias[: len(scale)] = (into.bias[: len(scale)] - shift) / scale
    into.bias[len(scale) :] -= 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ shift
    out.weight *= scale[:, None, None]


def train(folder: Path, steps: int) -> None:
    """Train up to `steps` in all, from the newest checkpoint in the folder if there is one; then write CODEC."""
    vae = new_vae().train()
    optimiser = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, weight_decay=1e-4)
    run = Run(folder, {"vae": vae}, optimiser)
    pictures, foreground = drawn(PICTURES, seed=1)
    bar = tqdm(range(run.step, steps), initial=run.step, total=steps, desc="codec", mininterval=10)
    began, used = time.monotonic(), time.process_time()
    for step in bar:
        rows = torch.from_numpy(np.random.default_rng(step).integers(0, PICTURES, BATCH))
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, PEAK_RATE)
        optimiser.zero_grad()
        loss = loss_of(vae, pictures[rows], foreground[rows])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        run.advance(float(loss.detach()))
        bar.set_postfix(loss=f"{run.loss:.4f}", refresh=False)
        if run.step % 500 == 0 or run.step == steps:
            run.clock(time.monotonic() - began, time.process_time() - used)
            began, used = time.monotonic(), time.process_time()
            run.save()
    standardise(vae.eval(), pictures[:4000])
    save_file(vae.state_dict(), folder / CODEC)


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".work/shapes/vae"))
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.manual_seed(time.time_ns() % 2**31)
    torch.set_num_threads(flags.threads)
    train(flags.folder, flags.steps)


if __name__ == "__main__":
    main()
