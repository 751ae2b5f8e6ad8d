"""What is asked of a model's speed, and what that becomes on a device."""

from dataclasses import fields

import pytest
import torch

from collodion.process.config import ConfigError
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.plan import Plan, resolve
from collodion.worker.optimize.wishes import (
    Attention,
    Compilation,
    MemoryFormat,
    Precision,
    Quantization,
    Switch,
    Wish,
    check,
    wish_for,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def plan(place, **wished):
    return resolve(Wish(**wished), place, torch.bfloat16, convolutional=True)


def test_everything_that_can_be_asked_for_is_planned():
    assert {one.name for one in fields(Wish)} == {one.name for one in fields(Plan)}


def test_what_is_said_of_a_model_comes_before_what_is_said_of_all():
    words = ("compile=regional", "dtype=bfloat16", "a:b:dtype=float16", "other:dtype=float32")
    assert wish_for(words, "a:b") == Wish(compile=Compilation.REGIONAL, dtype=Precision.FLOAT16)
    assert wish_for(words, "b") == Wish(compile=Compilation.REGIONAL, dtype=Precision.BFLOAT16)


def test_sizes_are_read_as_people_write_them():
    assert wish_for(("sizes=512x512+768x1024",), "m").ready_sizes == ((512, 512), (768, 1024))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("fast", "'fast' is neither KEY=VALUE nor MODEL:KEY=VALUE"),
        ("turbo=on", "there is no 'turbo'; there are dtype, vae_dtype, attention"),
        ("compile=yes", "compile is 'yes', not one of auto, off, regional"),
        ("m:sizes=512", "sizes is '512', not WIDTHxHEIGHT"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(word, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check((word,))


def test_a_cpu_does_by_itself_what_costs_nothing_there():
    made = plan(CPU)
    assert (made.dtype, made.cuda_graphs, made.compile) == (torch.float32, False, Compilation.OFF)
    assert not made.makes_ready


def test_a_gpu_captures_graphs_by_itself_in_the_precision_of_the_architecture():
    made = plan(GPU)
    assert (made.dtype, made.cuda_graphs, made.memory_format) == (torch.bfloat16, True, MemoryFormat.CHANNELS_LAST)
    assert made.makes_ready
    assert not plan(GPU, cuda_graphs=Switch.OFF).cuda_graphs
    assert resolve(Wish(), GPU, torch.float16, convolutional=False).memory_format is MemoryFormat.CONTIGUOUS


@pytest.mark.parametrize("wished", [{"cuda_graphs": Switch.ON}, {"deepspeed": Switch.ON}])
def test_what_needs_a_gpu_is_refused_without_one(wished):
    with pytest.raises(Unsuitable, match=f"{next(iter(wished))}=on needs a CUDA device"):
        plan(CPU, **wished)


@pytest.mark.parametrize(
    "wished",
    [
        {"quantize": Quantization.INT8},
        {"fuse_qkv": Switch.ON},
        {"compile": Compilation.REGIONAL},
        {"attention": Attention.XFORMERS},
    ],
)
def test_what_deepspeed_replaces_cannot_be_changed_too(wished):
    with pytest.raises(Unsuitable, match=f"{next(iter(wished))}=.* changes the blocks that deepspeed=on replaces"):
        plan(GPU, deepspeed=Switch.ON, **wished)


def test_blocks_of_deepspeed_take_no_adapters():
    assert plan(GPU).loras
    assert not plan(GPU, deepspeed=Switch.ON).loras


def test_matrices_of_8_bits_are_not_laid_together():
    with pytest.raises(Unsuitable, match="fuse_qkv=on lays together the matrices that quantize=int8 keeps apart"):
        plan(CPU, quantize=Quantization.INT8, fuse_qkv=Switch.ON)


def test_precisions_that_a_cpu_lacks_are_refused_before_anything_is_read():
    with pytest.raises(Unsuitable, match="fp8 is for GPUs"):
        plan(CPU, quantize=Quantization.FP8)
