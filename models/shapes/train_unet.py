"""Train denoiser and text encoder together: `python -m models.shapes.train_unet`. Stop and start it as you like.

Small matrices do not fill two threads: `torchrun --standalone --nproc-per-node 2 -m models.shapes.train_unet` has each process work on its
share of the batch, in one thread, and average the gradients, in about two thirds of the time.

The pictures are encoded once. The target is the velocity of Salimans and Ho (2022, section 4) on Stable Diffusion 1.5's noise schedule; the
weight of a timestep is that of min-SNR (Hang et al. 2023) for velocities, counted from the clean picture: min(SNR + 1, 6) / (SNR + 1).
One caption in ten is replaced by the empty one, for classifier-free guidance. What is shipped is the moving average of the weights.
"""

import argparse
import copy
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from models.shapes import checkpoint
from models.shapes.captions import caption, roughened
from models.shapes.draw import draw, sample
from models.shapes.parts import new_scheduler, new_text_encoder, new_unet, new_vae
from models.shapes.tokens import new_tokenizer
from models.shapes.train_vae import CODEC, as_input

PICTURES = 80_000
BATCH = 64
PEAK_RATE = 1e-3
AVERAGE = 0.999
EMPTY_SHARE = 0.1
MOST_WEIGHT = 6.0


def encoded(work: Path) -> dict[str, torch.Tensor]:
    """`latents` (PICTURES, 4, 8, 8), `tokens` (PICTURES, 24) and the `empty` prompt's (24,); made once."""
    file = work / "latents.safetensors"
    if _rank() == 0 and not file.exists():
        save_file(_encode(work), file)
    if distributed.is_initialized():
        distributed.barrier()
    data: dict[str, torch.Tensor] = load_file(file)
    return data


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


@torch.no_grad()
def _encode(work: Path) -> dict[str, torch.Tensor]:
    vae, tokenizer, rng = new_vae().eval(), new_tokenizer(), np.random.default_rng(2)
    vae.load_state_dict(load_file(work / "vae" / CODEC))
    scenes = [sample(rng, held_out=False) for _ in range(PICTURES)]
    captions = [roughened(caption(scene, rng), rng) for scene in scenes]
    latents = []
    for start in tqdm(range(0, PICTURES, 100), desc="encoding", mininterval=10):
        pictures = torch.from_numpy(np.stack([draw(scene, rng)[0] for scene in scenes[start : start + 100]]))
        latents.append(vae.encode(as_input(pictures.permute(0, 3, 1, 2).contiguous())).latent_dist.mean)
    tokens = tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return {"latents": torch.cat(latents), "tokens": tokens[:-1].contiguous(), "empty": tokens[-1].clone()}


class Trainee(nn.Module):
    """Denoiser and text encoder as one module."""

    def __init__(self) -> None:
        super().__init__()
        tokenizer = new_tokenizer()
        self.unet, self.text = new_unet(), new_text_encoder(len(tokenizer), tokenizer.eos_token_id)
        self.signal: torch.Tensor = new_scheduler().alphas_cumprod.clone()

    def forward(
        self, latents: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """The weighted squared error of the velocities: a scalar."""
        signal = self.signal[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        error = self.unet(noisy, times, self.text(tokens).last_hidden_state).sample - velocity
        weight = torch.clamp(MOST_WEIGHT * (1 - signal), max=1)
        loss: torch.Tensor = (weight * error.square()).mean()
        return loss


def rate(step: int, steps: int) -> float:
    """200 steps of warming up, then the peak, then a straight descent over the last two fifths."""
    return PEAK_RATE * min((step + 1) / 200, 1.0, max(0.02, (steps - step) / (0.4 * steps)))


def _batch(data: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """This process's share of a step's latents, tokens, noise and timesteps; they depend on step and rank alone."""
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    dice, many = torch.Generator().manual_seed(step * ranks + _rank()), BATCH // ranks
    rows = torch.randint(0, PICTURES, (many,), generator=dice)
    tokens = torch.where(torch.rand(many, 1, generator=dice) < EMPTY_SHARE, data["empty"], data["tokens"][rows])
    latents = data["latents"][rows]
    noise = torch.randn(latents.shape, generator=dice)
    return latents, tokens, noise, torch.randint(0, 1000, (many,), generator=dice)


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients by their mean over the processes."""
    if not distributed.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def _follow(average: nn.Module, trainee: nn.Module, step: int) -> None:
    decay = min(AVERAGE, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(trainee.parameters()), 1 - decay)


def _advance(trainee: Trainee, optimiser: torch.optim.Optimizer, data: dict[str, torch.Tensor], step: int) -> float:
    """One step of the optimiser; this process's loss."""
    parameters = list(trainee.parameters())
    optimiser.zero_grad()
    loss = trainee(*_batch(data, step))
    loss.backward()
    _share_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return float(loss.detach())


def train(work: Path, steps: int) -> None:
    """Train up to `steps` in all, from the newest checkpoint in the folder if there is one."""
    data, trainee, first = encoded(work), Trainee().train(), _rank() == 0
    average = copy.deepcopy(trainee)
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    modules = {"unet": trainee.unet, "text": trainee.text, "ema.unet": average.unet, "ema.text": average.text}
    run = checkpoint.Run(work / "unet", modules, optimiser)
    bar = tqdm(
        range(run.step, steps), initial=run.step, total=steps, desc="denoiser", mininterval=10, disable=not first
    )
    began, used = time.monotonic(), time.process_time()
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        run.advance(_advance(trainee, optimiser, data, step))
        _follow(average, trainee, step)
        bar.set_postfix(loss=f"{run.loss:.4f}", refresh=False)
        if first and (run.step % 250 == 0 or run.step == steps):
            run.clock(time.monotonic() - began, time.process_time() - used)
            began, used = time.monotonic(), time.process_time()
            run.save()


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".work/shapes"))
    parser.add_argument("--steps", type=int, default=8000)
    flags = parser.parse_args()
    torch.manual_seed(0)
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        torch.set_num_threads(1)
    train(flags.work, flags.steps)


if __name__ == "__main__":
    main()
