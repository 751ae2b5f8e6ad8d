"""What a preview is made of is what diffusers takes the finished latent to be."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from collodion.wire.jobs import LatentId
from collodion.worker.families.clean_estimate import CleanEstimate
from collodion.worker.sampling.update import model_inputs


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [1, 500, 951])
def test_the_estimate_is_that_of_diffusers(kind: str, timestep: int) -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(20)
    x, output = torch.randn((2, 1, 4, 8, 8), generator=torch.Generator().manual_seed(1)).unbind()
    expected = scheduler.step(output, timestep, x).pred_original_sample
    assert torch.allclose(CleanEstimate(scheduler)(x, output, timestep), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 0.6, 0.01])
def test_the_estimate_for_flow_matching_is_where_one_step_of_diffusers_leads(sigma: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[sigma])
    x, output = torch.randn((2, 1, 4, 8, 8), generator=torch.Generator().manual_seed(1)).unbind()
    timestep = scheduler.timesteps[0]
    expected = scheduler.step(output, timestep, x).prev_sample
    assert torch.allclose(CleanEstimate(scheduler)(x, output, float(timestep)), expected, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m"])
def test_halfway_the_embedded_models_preview_already_shows_the_picture(shapes, drive, sampler: str) -> None:
    name = LatentId("job", 0)
    driver = drive(shapes)
    prompt = "a large red circle on a blue background"
    driver.order("job", prompt=prompt, sampler=sampler, steps=12, seed=3, guidance_scale=2.0, width=32, height=32)
    driver.wish([name])
    while driver.holdings.held.membership == 0 or driver.latent(name).steps < 7:
        driver.engine.round()
    state = driver.latent(name).state
    estimate, noisy = shapes.snapshot(state), model_inputs([state.trajectory])[0]
    driver.finish()
    picture = driver.recorder.pictures[name].astype(float).reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    shown, hidden = (np.abs(shapes.preview(latent) - picture).mean() for latent in (estimate, noisy))
    assert shown < hidden / 1.5
