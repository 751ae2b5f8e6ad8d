"""Everything from drawings to the shipped folder: `python -m models.shapes.train` (or `make train`); stop and start it as you like.

Each part is a process of its own, so that a finished one costs only its start when this is run again.
"""

import subprocess
import sys

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
PARTS: tuple[tuple[str, ...], ...] = (
    ("models.shapes.train_vae",),
    (*TORCHRUN, "models.shapes.train_unet"),
    ("models.shapes.export",),
    ("models.shapes.evaluate",),
)


def main() -> None:
    """Run the parts in order; the first that fails ends it with its status."""
    for part in PARTS:
        status = subprocess.run([sys.executable, "-m", *part], check=False).returncode
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
