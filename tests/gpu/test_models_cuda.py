"""Models that come to a GPU and leave it: what they take, that it is given back, and that steps go on meanwhile.

Written without a GPU at hand; run by `make test-gpu`.
"""

import threading

import pytest

torch = pytest.importorskip("torch")

from collodion.wire.jobs import Parameters  # noqa: E402
from collodion.worker.config import WorkerConfig  # noqa: E402
from collodion.worker.families.device import choose_device  # noqa: E402
from collodion.worker.families.memory import room_for_models  # noqa: E402
from collodion.worker.loader import reason_of  # noqa: E402
from collodion.worker.models import open_library  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BOUND_S = 60
CONFIG = WorkerConfig(models=("a=shapes",), on_demand=("b=shapes",), device="cuda:0", optimize=("dtype=float32",))


@pytest.fixture
def shelf():
    library = open_library(CONFIG)
    library.shelf.look()
    return library.shelf


def load(shelf, name):
    return shelf.load(name, lambda _: None)


def begun(pipeline, steps=50):
    plan = pipeline.prepare(Parameters("a", "a red circle", "", 32, 32, steps, "ddim", 3.0, 7, 1))
    return pipeline.begin(plan, pipeline.encode([plan]).conditioning[0], 7)


def finish(pipeline, state):
    while not state.trajectory.finished:
        pipeline.step([state]).span.wait()
    return state.trajectory.latent.cpu()


def test_the_room_for_models_leaves_some_for_batches():
    device = choose_device(CONFIG)
    free, _ = torch.cuda.mem_get_info(device.place)
    assert 0 < room_for_models(CONFIG, device) < free


def test_a_model_takes_what_it_says_and_gives_it_back(shelf):
    load(shelf, "a").close()  # what the libraries keep for themselves is there by now
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    pipeline = load(shelf, "a")
    taken = torch.cuda.memory_allocated() - before
    assert pipeline.weight_bytes <= taken <= 1.1 * pipeline.weight_bytes + (1 << 20)
    finish(pipeline, begun(pipeline, 3))
    pipeline.close()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 20


def test_a_picture_is_the_same_whether_a_model_is_loaded_beside_it_or_not(shelf):
    pipeline = load(shelf, "a")
    alone = finish(pipeline, begun(pipeline))
    came = threading.Event()
    others = []

    def load_beside():
        others.append(load(shelf, "b"))
        came.set()

    state = begun(pipeline)
    thread = threading.Thread(target=load_beside)
    thread.start()
    beside = finish(pipeline, state)
    assert came.wait(BOUND_S)
    thread.join()
    assert torch.equal(alone, beside)
    other = others.pop()
    assert torch.equal(finish(other, begun(other)), alone)
    other.close()
    assert torch.equal(finish(pipeline, begun(pipeline)), alone)


def test_a_model_that_does_not_fit_says_so_and_harms_nobody(shelf):
    pipeline = load(shelf, "a")
    alone = finish(pipeline, begun(pipeline))
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 20)) / total)
    try:
        with pytest.raises(MemoryError) as error:
            open_another().load("c", lambda _: None)
        assert reason_of("c", error.value) == "the model c does not fit the device's memory"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(finish(pipeline, begun(pipeline)), alone)


def open_another():
    """A shelf of its own, which shares no weights."""
    library = open_library(WorkerConfig(models=("c=shapes",), device="cuda:0", optimize=("dtype=float32",)))
    library.shelf.look()
    return library.shelf
