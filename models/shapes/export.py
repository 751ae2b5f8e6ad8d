"""Write the pipeline folder that the worker ships: `python -m models.shapes.export`.

Rules of this file: weights in half precision, safetensors only; the averaged weights of the newest checkpoints, or untrained ones where
there are none yet. The model card beside them is kept by hand.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from models.shapes import checkpoint
from models.shapes.parts import new_scheduler, new_text_encoder, new_unet, new_vae
from models.shapes.tokens import new_tokenizer
from models.shapes.train_vae import CODEC

SHIPPED = Path(__file__).parents[2] / "worker" / "collodion" / "worker" / "shapes"


def assemble(work: Path) -> StableDiffusionPipeline:
    """The pipeline in float32 from what lies in `work`."""
    tokenizer, vae, unet = new_tokenizer(), new_vae(), new_unet()
    text = new_text_encoder(len(tokenizer), tokenizer.eos_token_id)
    if (work / "vae" / CODEC).exists():
        vae.load_state_dict(load_file(work / "vae" / CODEC))
    if (work / "unet" / checkpoint.FILE).exists():
        unet.load_state_dict(checkpoint.read(work / "unet", "ema.unet"))
        text.load_state_dict(checkpoint.read(work / "unet", "ema.text"))
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save in float16. PNDM needs `skip_prk_steps` in the configuration, which DDIM itself does not keep."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"skip_prk_steps": True}, indent=2, sort_keys=True) + "\n"
    )


def main() -> None:
    """Read the flags and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".work/shapes"))
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    flags = parser.parse_args()
    write(assemble(flags.work), flags.folder)


if __name__ == "__main__":
    main()
