"""Reference: a transformer of diffusers with its own first-block cache. A latent alone is what that makes of it."""

import pytest
import tiny_models
import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel, QwenImageTransformer2DModel
from walking import Walker, apart, architecture_around, call_of, walk

from collodion.worker.step_cache import reuse

SMALL = {"num_attention_heads": 2, "attention_head_dim": 16}
DEEPER = {  # than the tiny models: blocks of every kind behind the first one
    "flux_dev": lambda: FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
        **SMALL,
    ),
    "qwen_image": lambda: QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=4, joint_attention_dim=16, axes_dims_rope=(4, 6, 6), **SMALL
    ),
}


def deeper(name):
    """Always with the same weights."""
    torch.manual_seed(0)
    pipeline = tiny_models.MODELS[name]()
    pipeline.register_modules(transformer=DEEPER[name]())
    return architecture_around(pipeline)


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.4])
@pytest.mark.parametrize("name", DEEPER)
def test_a_latent_alone_is_what_diffusers_first_block_cache_makes_of_it(name, threshold, monkeypatch):
    monkeypatch.setattr(reuse, "MOST_IN_A_ROW", 1_000)  # diffusers has no bound
    model = deeper(name)
    ours = Walker(("a red circle",), 1, threshold, evaluations=12)
    walk(model, [ours])
    reference = deeper(name)
    reference.denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    theirs = Walker(("a red circle",), 1)
    theirs.begin(reference)
    full = []
    last = reference.denoiser.transformer_blocks[1]
    last.attn.register_forward_hook(lambda *_: full.append(theirs.done))
    with torch.inference_mode(), reference.denoiser.cache_context("cond"):
        for output in ours.outputs[:-1]:  # ours is full at the last one
            expected = reference.predict(call_of([theirs])[0])
            assert apart(output, expected) < 1e-5
            theirs.latent = theirs.latent - theirs.stride * expected[0]
            theirs.done += 1
    assert [call not in full for call in range(11)] == ours.reused[:-1]
    reused = sum(ours.reused)
    assert reused == 0 if threshold < 0.1 else 0 < reused < 11
