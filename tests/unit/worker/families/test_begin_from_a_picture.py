"""Image-to-image and inpainting against diffusers' own pipelines: same seed, same picture, in a crowd of others."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from reference_calls import call

from collodion.wire.artifacts import DirectoryStore

SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "heun", "pndm")
STRENGTHS = (0.3, 0.75, 1.0)


def picture(width=80, height=64):
    """Larger than what is drawn, so that it has to be resized."""
    made = Image.new("RGB", (width, height), (30, 60, 160))
    ImageDraw.Draw(made).ellipse((10, 10, 50, 50), fill=(220, 40, 40))
    return made


def mask(width=64, height=64):
    made = Image.new("L", (width, height), 0)
    ImageDraw.Draw(made).rectangle((20, 8, 60, 40), fill=255)
    return made


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A store with the two uploads."""
    root = tmp_path_factory.mktemp("artifacts")
    for key, upload in {"uploads/picture.png": picture(), "uploads/mask.png": mask()}.items():
        data = io.BytesIO()
        upload.save(data, "PNG")
        DirectoryStore(root).put(key, data.getvalue())
    return root


def jobs(masked):
    """One of every sampler and strength."""
    cases = {}
    for number, (sampler, strength) in enumerate((one, other) for one in SAMPLERS for other in STRENGTHS):
        cases[f"{sampler}-{strength}"] = {
            "sampler": sampler,
            "steps": 5,
            "guidance_scale": 4.0 if number % 2 else 1.0,
            "negative_prompt": "blue" if number % 2 else "",
            "prompt": "a green square",
            "seed": 300 + number,
            "init_image": "uploads/picture.png",
            "strength": strength,
            **({"mask_image": "uploads/mask.png"} if masked else {}),
        }
    return cases


PLAIN, MASKED = jobs(masked=False), jobs(masked=True)
FEW = ("euler_a-0.75", "dpmpp_2m-0.3", "heun-1.0")
FEW_PLAIN, FEW_MASKED = ({case: cases[case] for case in FEW} for cases in (PLAIN, MASKED))
KINDS = {
    "sd1 from a picture": ("sd1", PLAIN, "StableDiffusionImg2ImgPipeline"),
    "sd1 with a mask": ("sd1", MASKED, "StableDiffusionInpaintPipeline"),
    "sd2_v with a mask": ("sd2_v", FEW_MASKED, "StableDiffusionInpaintPipeline"),
    "inpainting model": ("sd1_inpainting", FEW_MASKED, "StableDiffusionInpaintPipeline"),
    "sdxl from a picture": ("sdxl", FEW_PLAIN, "StableDiffusionXLImg2ImgPipeline"),
    "sdxl with a mask": ("sdxl", FEW_MASKED, "StableDiffusionXLInpaintPipeline"),
}
CASES = [(kind, case) for kind, (_, cases, _) in KINDS.items() for case in cases]


@pytest.fixture(scope="module")
def drawn(load_family, artifacts, drive, spy):
    """All jobs of a kind at once, with one that begins from noise among them: pictures by name, latents by seed."""
    done = {}

    def draw(kind):
        if kind not in done:
            family, cases, _ = KINDS[kind]
            spied = spy(load_family(family, artifacts=artifacts))
            noise = {"noise": {"sampler": "euler", "steps": 3, "guidance_scale": 2.0, "seed": 9}}
            done[kind] = drive(spied, max_batch=16).draw({**cases, **noise}), spied.latents
        return done[kind]

    return draw


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_a_picture_begun_from_a_picture_is_the_one_that_diffusers_draws(kind, case, drawn, reference_of):
    family, cases, pipeline_class = KINDS[kind]
    fields = cases[case]
    more = {"image": picture(), "strength": fields["strength"], "width": 64, "height": 64}
    if "Img2Img" in pipeline_class:
        more |= {"image": picture().resize((64, 64), Image.Resampling.LANCZOS)}
        del more["width"], more["height"]
    else:
        more |= {"mask_image": mask()}
    pictures, latents = drawn(kind)
    latent, expected = call(reference_of(family, pipeline_class), fields, **more)
    error = float((latents[fields["seed"]] - latent).abs().max() / latent.abs().max())
    assert error < 1e-4
    assert np.abs(pictures[case].astype(int) - np.round(expected * 255).astype(int)).max() <= 1


def test_a_reproducible_worker_draws_the_same_bits_from_a_picture_in_any_company(load_family, artifacts, drive):
    settings = {"artifacts": artifacts, "reproducible": True, "max_batch": 4, "decode_batch": 2, "encode_batch": 2}
    model = load_family("sd1", **settings)
    bounds = {name: settings[name] for name in ("max_batch", "decode_batch", "encode_batch")}
    company = {name: MASKED[name] for name in ("euler_a-0.75", "ddim-0.3", "heun-1.0")}
    together = drive(model, **bounds).draw(company)
    alone = drive(model, **bounds).draw({"euler_a-0.75": company["euler_a-0.75"]})
    assert (together["euler_a-0.75"] == alone["euler_a-0.75"]).all()
