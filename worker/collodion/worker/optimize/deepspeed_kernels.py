"""DeepSpeed's package, its compiled kernels and its Triton kernel, imported when they are asked for and never at a worker's start.

DeepSpeed ships the sources of its kernels. Unless it was installed with DS_BUILD_TRANSFORMER_INFERENCE=1 DS_BUILD_SPATIAL_INFERENCE=1,
they are compiled when they are first loaded, by nvcc, ninja and a C++ compiler: torch's packages bring the CUDA libraries, not nvcc. The
result stays in TORCH_EXTENSIONS_DIR (~/.cache/torch_extensions), for one version of torch and CUDA.

Its attention is a Triton kernel of its own, written with block pointers, which Triton removed in 3.9 (triton-lang/triton#10833).
torch 2.13 comes with Triton 3.7.1.
"""

import importlib
import importlib.util
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from collodion.worker.optimize.errors import Unsuitable

_INFERENCE = "deepspeed.ops.transformer.inference"
_NO_BLOCK_POINTERS = Version("3.9")
_FAILURES = (ImportError, OSError, RuntimeError, ValueError, AssertionError, subprocess.SubprocessError)


@dataclass(frozen=True)
class Kernels:
    """What an injected module is made of. residual_norm: see `deepspeed_modules`. errors: what a kernel may raise when it first runs."""

    attention: Callable[[Any], Any]
    attention_config: Callable[..., Any]
    block: Callable[[Any, Any], Any]
    block_config: Callable[[], Any]
    residual_norm: Callable[..., Any]
    errors: tuple[type[Exception], ...]


def load_kernels() -> Kernels:
    """Takes minutes where they have to be compiled. Raises Unsuitable."""
    if importlib.util.find_spec("deepspeed") is None:
        raise Unsuitable("deepspeed is not installed: pip install 'deepspeed>=0.19.8,<0.20'")
    logging.getLogger("DeepSpeed").addFilter(_worth_saying)
    try:
        attention, block, config, block_config, base, bias_add = (
            importlib.import_module(f"{_INFERENCE}.{name}")
            for name in (
                "diffusers_attention",
                "diffusers_transformer_block",
                "config",
                "diffusers_2d_transformer",
                "op_binding.base",
                "bias_add",
            )
        )
    except _FAILURES as error:
        raise Unsuitable(f"deepspeed cannot be imported: {_sentence(error)}") from error
    errors = _load_triton(attention)
    _compile(base, bias_add)
    return Kernels(
        attention.DeepSpeedDiffusersAttention,
        config.DeepSpeedInferenceConfig,
        block.DeepSpeedDiffusersTransformerBlock,
        block_config.Diffusers2DTransformerConfig,
        base.BaseOp.inference_module.layer_norm_residual_store_pre_ln_res,
        (RuntimeError, *errors),
    )


def _load_triton(attention: Any) -> tuple[type[Exception], ...]:
    """What it raises where a kernel cannot be compiled."""
    if attention.triton_flash_attn is None:
        try:
            _check_triton(importlib.import_module("triton").__version__)
            warnings.filterwarnings("ignore", "tl.make_block_ptr is deprecated")
            attention.load_triton_flash_attn()
        except ImportError as error:
            raise Unsuitable(
                f"DeepSpeed's attention is a Triton kernel: triton cannot be imported ({error})"
            ) from error
    triton: Any = sys.modules.get("triton")
    return () if triton is None else (triton.errors.TritonError,)


def _check_triton(version: str) -> None:
    if Version(version) >= _NO_BLOCK_POINTERS:
        raise Unsuitable(
            f"DeepSpeed's attention is written with block pointers, which Triton {version} no longer has:"
            f" it needs Triton before {_NO_BLOCK_POINTERS}"
        )


def _compile(base: Any, bias_add: Any) -> None:
    builders = importlib.import_module("deepspeed.ops.op_builder")
    builder = importlib.import_module("deepspeed.ops.op_builder.builder")
    failures = (*_FAILURES, builder.MissingCUDAException, builder.CUDAMismatchException)
    try:
        if base.BaseOp.inference_module is None:
            base.BaseOp.inference_module = builders.InferenceBuilder().load(verbose=False)
        if bias_add.spatial_cuda_module is None:
            bias_add.spatial_cuda_module = builders.SpatialInferenceBuilder().load(verbose=False)
    except failures as error:
        raise Unsuitable(
            "DeepSpeed compiles its kernels when they are first used, with nvcc (of the CUDA version that torch was built with),"
            f" ninja and a C++ compiler, which failed: {_sentence(error)}"
        ) from error


def _worth_saying(record: logging.LogRecord) -> bool:
    """Its logger writes to standard output, that it found no accelerator for instance."""
    return record.levelno >= logging.ERROR


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
