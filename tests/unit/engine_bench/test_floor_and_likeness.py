"""The arithmetic of floors, likeness, profiles and strangers."""

import math

import numpy as np
import pytest
import torch

from engine_bench.floor import Work, work_of
from engine_bench.likeness import psnr, relative_error
from engine_bench.profiles import covered
from engine_bench.strangers import shares


def test_a_floor_grows_with_pictures_and_model_calls():
    work = Work(call_flops=2e12, ends_flops=1e12)
    assert work.floor_s(batch=1, calls=50, rate=1e15) == pytest.approx(0.1)
    assert work.floor_s(batch=8, calls=20, rate=1e15) == pytest.approx(0.32)


def test_what_is_not_the_denoiser_is_the_ends():
    counts = {"Global": {"mm": 10, "convolution": 5}, "UNet": {"mm": 8, "convolution": 4}, "UNet.conv_in": {"mm": 1}}
    assert work_of(counts, "UNet") == Work(12.0, 3.0)


def test_a_denoiser_of_which_nothing_was_counted_is_an_error():
    with pytest.raises(ValueError, match="no operation of UNet"):
        work_of({"Global": {"mm": 10}}, "UNet")


def test_attention_of_a_cpu_is_counted():
    from torch.utils.flop_counter import FlopCounterMode

    from engine_bench.floor import MORE

    query = torch.randn(1, 2, 8, 4)
    with FlopCounterMode(display=False, custom_mapping=MORE) as counter, torch.inference_mode():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * (2 * 2 * 8 * 8 * 4)  # two products of (8, 4) and (4, 8), for two heads


def test_a_relative_error_is_of_norms():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


def test_equal_pictures_are_infinitely_alike_and_opposite_ones_not_at_all():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, white) == 0.0


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0), ([(0, 2), (1, 3)], 3), ([(0, 5), (1, 2), (7, 8)], 6), ([(0, 1), (1, 2)], 2)]
)
def test_time_that_operations_share_counts_once(spans, length):
    assert covered(spans) == length


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 16])
def test_strangers_have_as_many_rows_as_the_uniform_batch(batch):
    guided, unguided = shares(batch, guided_rows=2)
    assert 2 * guided + unguided == 2 * batch
    assert unguided > 0


def test_strangers_of_a_model_without_negative_prompts_are_as_many():
    assert shares(8, guided_rows=1) == (8, 0)
