"""Blocks are compiled for the shapes that were asked for, in `make` and nowhere else; everything else runs as diffusers wrote it."""

import gc
import os
import sys
import threading
import weakref
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from collodion.worker.optimize import compilation
from collodion.worker.optimize.compilation import BlockCompiler, compile_blocks, repeated_blocks
from collodion.worker.optimize.compile_cache import default_folder, keep_in
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.ready import STEP, Signature

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))

import tiny_pipelines
from replaying import NEEDS_COMPILER, Notes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

BOUND_S = 60


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden, scale=1.0):
        return hidden + torch.nn.functional.silu(self.linear(hidden)) * scale


class Model(nn.Module):
    _repeated_blocks = ("Block",)

    def __init__(self, count=3):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.scale = 1.0

    def forward(self, hidden):
        for block in self.blocks:
            hidden = block(hidden, scale=self.scale)
        return hidden


class Made:
    """A function, and what was compiled for it."""

    def __init__(self, maker, function, tensors):
        self.code = maker.make(Signature.of(STEP, None, tensors), function, tensors)
        self._function = function

    def __call__(self, tensors):
        return self.code(self._function, tensors)

    @property
    def graphs(self):
        return self.code.graphs


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory):
    """A cache of these tests' own."""
    names = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    folder = tmp_path_factory.getbasetemp() / "compiled"
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def heard():
    return Notes()


def model(count=3):
    torch.manual_seed(0)
    made = Model(count).eval().requires_grad_(False)
    compile_blocks(made, "eager")
    return made


def function_of(denoiser):
    return lambda tensors: {"out": denoiser(tensors["hidden"])}


def rows(count, seed=0):
    return {"hidden": torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))}


def test_one_compiled_code_serves_all_blocks_that_are_alike(heard):
    counter = CompileCounter()
    denoiser = model(count=5)
    with torch.inference_mode():
        expected = denoiser(rows(2)["hidden"])
    made = Made(BlockCompiler(denoiser, heard, counter), function_of(denoiser), rows(2))
    assert torch.equal(made(rows(2))["out"], expected)
    assert made.graphs == counter.frame_count == 1
    assert not heard.fallbacks


def test_its_blocks_are_counted_and_its_weights_keep_their_names():
    torch.manual_seed(0)
    names = Model(4).state_dict().keys()
    denoiser = Model(4)
    done = compile_blocks(denoiser, "eager")
    assert (done.name, done.value, done.detail) == ("compile", "regional", "4 Block")
    assert denoiser.state_dict().keys() == names
    assert compile_blocks(denoiser, "eager") == done


def test_calls_that_are_not_made_ready_compile_nothing(heard):
    counter = CompileCounter()
    denoiser = model()
    maker = BlockCompiler(denoiser, heard, counter)
    function = function_of(denoiser)
    for count in (1, 2, 3):
        denoiser(rows(count)["hidden"])
    assert counter.frame_count == 0
    made = Made(maker, function, rows(2))
    denoiser(rows(3)["hidden"])
    with maker.eagerly():
        function(rows(2))
    assert counter.frame_count == 1
    assert torch.equal(made(rows(2))["out"], denoiser(rows(2)["hidden"]))
    assert not heard.fallbacks


def test_within_a_compiled_call_a_part_can_be_eager(heard):
    ran = []

    def backend(graph, _):
        return lambda *inputs: ran.append(1) or graph(*inputs)

    denoiser = model(count=1)
    maker = BlockCompiler(denoiser, heard, backend)

    def function(tensors):
        with maker.eagerly():
            hidden = denoiser(tensors["hidden"])
        return {"out": denoiser(hidden)}

    made = Made(maker, function, rows(2))
    ran.clear()
    made(rows(2))
    assert len(ran) == 1


def test_what_the_guards_turn_away_runs_eagerly_and_is_counted_once_a_call(heard):
    counter = CompileCounter()
    denoiser = model()
    made = Made(BlockCompiler(denoiser, heard, counter), function_of(denoiser), rows(2))
    for hidden in (rows(5)["hidden"], rows(2)["hidden"].t().contiguous().t()):
        with torch.inference_mode():
            expected = denoiser(hidden)
        assert torch.equal(made({"hidden": hidden})["out"], expected)
    denoiser.scale = 2.0
    made(rows(2))
    assert heard.fallbacks == ["recompile"] * 3
    denoiser.scale = 1.0
    made(rows(2))
    assert heard.fallbacks == ["recompile"] * 3
    assert counter.frame_count == 1
    assert heard.recompilations == 0


def test_any_number_of_shapes_is_made_ready_whatever_dynamo_allows_for_one_function(heard):
    counter = CompileCounter()
    denoiser = model(count=2)
    maker = BlockCompiler(denoiser, heard, counter)
    most = torch._dynamo.config.recompile_limit
    made = {count: Made(maker, function_of(denoiser), rows(count)) for count in range(1, most + 4)}
    for count, one in made.items():
        assert torch.equal(one(rows(count))["out"], denoiser(rows(count)["hidden"]))
        assert one.graphs == 1
    assert counter.frame_count == len(made)
    assert not heard.fallbacks


def test_a_block_that_never_runs_with_the_same_shapes_is_refused_and_not_half_compiled(heard):
    denoiser = model(count=1)

    def function(tensors):
        for count in range(1, 9):
            denoiser(tensors["hidden"][:count])
        return {}

    with pytest.raises(RuntimeError, match="more than 4 kinds of calls"):
        Made(BlockCompiler(denoiser, heard, CompileCounter()), function, rows(9))


def test_what_does_not_hold_for_a_second_call_is_refused(heard):
    denoiser = model()

    def function(tensors):
        denoiser.scale += 1.0
        return {"out": denoiser(tensors["hidden"])}

    with pytest.raises(RuntimeError, match="Block does not hold for a second call"):
        Made(BlockCompiler(denoiser, heard, CompileCounter()), function, rows(2))


def test_a_function_that_calls_no_blocks_is_refused(heard):
    with pytest.raises(RuntimeError, match="no blocks"):
        Made(BlockCompiler(model(), heard, CompileCounter()), lambda tensors: tensors, rows(2))


def test_a_block_that_cannot_be_compiled_is_a_runtime_error(heard):
    def broken(graph, inputs):
        raise ArithmeticError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        Made(BlockCompiler(model(), heard, broken), function_of(model()), rows(2))


def test_something_else_that_compiles_within_a_call_is_counted(heard):
    denoiser = model()
    foreign = torch.compile(lambda hidden: hidden * 2, backend=CompileCounter())
    called = []

    def function(tensors):
        hidden = denoiser(tensors["hidden"])
        return {"out": foreign(hidden) if called else hidden}

    made = Made(BlockCompiler(denoiser, heard, CompileCounter()), function, rows(2))
    called.append(1)
    made(rows(2))
    assert heard.recompilations == 1


def test_one_thread_steps_what_is_compiled_and_what_is_not_while_another_traces(heard):
    """Tracing is global in torch: a flag says so, and `nn.Module.__call__` is exchanged while it lasts."""
    inside, go_on = threading.Event(), threading.Event()

    @torch.library.custom_op("collodion_test::same", mutates_args=())
    def same(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()

    @same.register_fake
    def _(hidden):
        if torch.fx._symbolic_trace._is_fx_tracing_flag:
            inside.set()
            assert go_on.wait(BOUND_S)
        return torch.empty_like(hidden)

    stepped, eager, loading = model(), model(), model()
    loading.blocks[0].linear.forward = lambda hidden: same(hidden)
    counter = CompileCounter()
    made = Made(BlockCompiler(stepped, heard, counter), function_of(stepped), rows(2))
    loaded = []
    loader = BlockCompiler(loading, Notes(), "aot_eager")
    thread = threading.Thread(target=lambda: loaded.append(Made(loader, function_of(loading), rows(2))))
    thread.start()
    try:
        assert inside.wait(BOUND_S)
        with torch.inference_mode():
            expected = eager(rows(2)["hidden"])
        assert torch.equal(made(rows(2))["out"], expected)
    finally:
        go_on.set()
        thread.join(BOUND_S)
    assert torch.equal(loaded[0](rows(2))["out"], loading(rows(2)["hidden"]))
    assert (counter.frame_count, heard.fallbacks) == (1, [])


def test_code_that_one_thread_compiled_runs_in_another(heard):
    denoiser = model()
    made = []
    thread = threading.Thread(
        target=lambda: made.append(Made(BlockCompiler(denoiser, heard, "eager"), function_of(denoiser), rows(2)))
    )
    thread.start()
    thread.join(BOUND_S)
    assert torch.equal(made[0](rows(2))["out"], denoiser(rows(2)["hidden"]))
    assert not heard.fallbacks


def test_a_model_that_is_let_go_leaves_nothing_behind(heard):
    names = set(vars(compilation))
    denoiser = model()
    made = Made(BlockCompiler(denoiser, heard, "aot_eager"), function_of(denoiser), rows(2))
    made(rows(2))
    left = [weakref.ref(denoiser), weakref.ref(denoiser.blocks[0].linear.weight), weakref.ref(made.code._code)]
    del denoiser, made
    gc.collect()
    assert [one() for one in left] == [None, None, None]
    assert set(vars(compilation)) == names  # Dynamo puts what it compiled into a function's globals


def test_every_architecture_has_blocks_that_it_repeats():
    found = {
        name: repeated_blocks(make().get("unet") or make()["transformer"]) for name, make in tiny_pipelines.MADE.items()
    }
    kinds = {name: {type(block).__name__ for block in blocks.values()} for name, blocks in found.items()}
    assert kinds == {
        "sd1": {"BasicTransformerBlock"},
        "sdxl": {"BasicTransformerBlock"},
        "flux": {"FluxTransformerBlock", "FluxSingleTransformerBlock"},
        "sd3": {"JointTransformerBlock"},
    }


def test_a_model_without_repeated_blocks_is_refused():
    with pytest.raises(Unsuitable, match="Linear has no blocks that it repeats"):
        compile_blocks(nn.Linear(2, 2))


def test_a_machine_without_a_compiler_is_refused(monkeypatch):
    import torch._inductor.config as inductor

    missing = inductor.patch({"cpp.cxx": ("there-is-no-such-compiler",)})
    with missing, pytest.raises(Unsuitable, match=r"needs a C\+\+ compiler"):
        compile_blocks(Model())
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    with pytest.raises(Unsuitable, match="needs triton"):
        compilation._check_compiler(torch.device("cuda"))


def test_kernels_are_kept_below_this_users_cache(kernels):
    folder = keep_in(default_folder(torch.device("cpu")))
    assert folder.parent == (kernels / "collodion/compiled").resolve()
    assert folder.name.startswith(f"{torch.__version__}-cpu")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_enter_is_refused(mode, tmp_path):
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(Unsuitable, match="nobody else's"):
        keep_in(folder)


def test_a_folder_that_others_may_replace_is_refused(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(Unsuitable, match="anybody may write"):
        keep_in(open_to_all / "compiled")
    (tmp_path / "file").touch()
    with pytest.raises(Unsuitable, match="cannot be kept"):
        keep_in(tmp_path / "file" / "compiled")


def small(name):
    """One kind of block each, which takes inductor a few seconds."""
    torch.manual_seed(7)
    if name == "sd3":
        made = diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=8,
        )
        made.transformer_blocks = made.transformer_blocks[:2]  # the last one is of another kind
    else:
        made = tiny_pipelines._unet(
            cross_attention_dim=24,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            mid_block_type=None,
        )
    return made.eval().requires_grad_(False)


def pictures(denoiser, through, name, guided):
    """Latents of strangers, in one batch of four rows: two with guidance, or four without, of different samplers' steps."""
    call = tiny_pipelines.inputs(name, 4, seed=3)
    names = [key for key in call if key not in ("sample", "hidden_states", "timestep")]
    image = "sample" if "sample" in call else "hidden_states"
    latents = call[image]
    for step in range(4):
        tensors = {image: latents, "timestep": call["timestep"] * (1 - step / 4), **{key: call[key] for key in names}}
        predicted = through(tensors)["out"]
        if guided:
            prompted, negative = predicted.chunk(2)
            predicted = (negative + 5.0 * (prompted - negative)).repeat(2, 1, 1, 1)
            latents = latents[:2].repeat(2, 1, 1, 1)
        latents = latents - torch.tensor([0.1, 0.2, 0.1, 0.2])[:, None, None, None] * predicted
    return latents


@pytest.mark.timeout(300)  # a compiler runs some times; for the other denoiser it would show nothing more
@pytest.mark.parametrize(
    ("name", "backend"), [pytest.param("sd1", "inductor", marks=NEEDS_COMPILER), ("sd3", "aot_eager")]
)
def test_compiled_pictures_are_those_of_the_eager_model(name, backend, heard):
    from torch._dynamo.utils import counters

    denoiser = small(name)
    compile_blocks(denoiser, backend)

    def function(tensors):
        return {"out": denoiser(**tensors, return_dict=False)[0]}

    made = Made(BlockCompiler(denoiser, heard, backend), function, tiny_pipelines.inputs(name, 4))
    assert made.graphs == 1
    compiled = counters["stats"]["unique_graphs"]
    for guided in (False, True):
        with torch.inference_mode():
            expected = pictures(denoiser, function, name, guided)
            drawn = pictures(denoiser, made, name, guided)
        assert (drawn - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert counters["stats"]["unique_graphs"] == compiled
    assert (heard.fallbacks, heard.recompilations) == ([], 0)
    files = list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*"))
    assert backend != "inductor" or any(file.suffix == ".so" for file in files)
    assert not [file for file in files if "fxgraph" in file.parts or "aotautograd" in file.parts]
