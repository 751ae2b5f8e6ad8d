"""What is captured, and when; what only a GPU can show is in tests/gpu/test_graphs_cuda.py."""

import pytest
import torch

from collodion.worker.optimize.graphs import CudaGraphs
from collodion.worker.optimize.ready import STEP, Signature

CPU = torch.device("cpu")


class Compiler:
    """A Maker that compiles nothing."""

    what = "compiled"

    def make(self, signature, function, tensors):
        return lambda function, tensors: function(tensors)


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda place: place)
    return lambda compiler=None: CudaGraphs(CPU, compiler)


def signed(name):
    return Signature.of(name, None, {"x": torch.zeros(1)})


def test_what_is_not_compiled_is_captured_at_rest_though_the_denoiser_is_compiled(graphs):
    both = graphs(Compiler())
    assert both.quick(signed("text_encoder"))
    assert both.quick(signed("vae"))
    assert not both.quick(signed(STEP))
    both._called(signed(STEP), dict, {})
    assert both.quick(signed(STEP))


def test_without_a_compiler_everything_is_captured_at_rest(graphs):
    assert graphs().quick(signed(STEP))
