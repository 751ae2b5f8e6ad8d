"""What a model does with its memory, and with latents that come and go in any order."""

import gc
import io
import json
import shutil
import weakref

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import Lora, Parameters
from collodion.worker.adapters.products import Gathered, OfSome
from collodion.worker.config import WorkerConfig
from collodion.worker.families.device import Device, choose_device
from collodion.worker.families.disk_shelf import DiskShelf
from collodion.worker.models import load_models, open_library
from collodion.worker.registry import ModelUnusable


def job(**fields):
    sensible = {
        "model": "tiny",
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "width": 64,
        "height": 64,
        "steps": 4,
        "sampler": "euler",
        "guidance_scale": 4.0,
        "seed": 7,
        "images": 1,
    }
    return Parameters(**{**sensible, **fields})


def finish(model, state):
    while not state.trajectory.finished:
        model.step([state])
    return state.trajectory.latent


@pytest.mark.parametrize("family", ["sd1", "flux_dev"])
def test_who_still_has_a_closed_pipeline_has_nothing_of_its_model(family, family_folder):
    config = WorkerConfig(models=(f"tiny={family_folder(family)}",), device="cpu", threads=1)
    model = load_models(config)[1]["tiny"]
    weights = [weakref.ref(weight) for weight in model._architecture.denoiser.parameters()]
    plan = model.prepare(job())
    model.decode([state := model.begin(plan, model.encode([plan]).conditioning[0], 1)])
    model.step([state])
    del plan, state
    model.close()
    gc.collect()
    assert not any(weight() is not None for weight in weights)


def test_nothing_of_a_finished_latent_is_kept_once_it_is_decoded(family_folder, tmp_path):
    model = with_text_adapters("sd1", family_folder("sd1"), tmp_path)
    plan = model.prepare(job(loras=(Lora("a", 1.0),)))
    (conditioning,) = model.encode([plan]).conditioning
    state = model.begin(plan, conditioning, 1)
    finish(model, state)
    pictures = model.decode([state]).pictures()
    left = [weakref.ref(state), weakref.ref(conditioning), weakref.ref(plan.uses[0].adapter)]
    model._adapters._recent.clear()
    del plan, conditioning, state
    gc.collect()
    assert pictures[0] is not None
    assert not any(one() is not None for one in left)


@pytest.mark.parametrize("reproducible", [False, True])
def test_rows_without_adapters_cost_nothing_where_they_need_not_be_the_same_to_the_bit(
    reproducible, family_folder, tmp_path
):
    model = with_text_adapters("sd1", family_folder("sd1"), tmp_path, reproducible=reproducible)
    uses = model.prepare(job(loras=(Lora("a", 1.0),))).uses
    selection = model._adapters.select("text_encoder", [uses, (), (), ()])
    looked_at = {type(change.product) for _, change in selection.changes}
    assert looked_at == ({Gathered} if reproducible else {OfSome})


class Elsewhere:
    """Host memory of a GPU's worker: what lies there means nothing to the model, and comes back as it was."""

    def __init__(self):
        self.kept = {}

    def to_host(self, tensor):
        hidden = torch.full_like(tensor, float("nan"))
        self.kept[id(hidden)] = hidden, tensor
        return hidden

    def to_device(self, tensor):
        return self.kept.get(id(tensor), (None, tensor))[1]


@pytest.mark.parametrize("masked", [False, True])
def test_an_image_may_begin_while_all_others_of_its_job_are_spilled(masked, family_folder, tmp_path, monkeypatch):
    for key in ("picture", "mask"):
        data = io.BytesIO()
        Image.new("RGB", (64, 64), (200, 30, 30)).save(data, "PNG")
        DirectoryStore(tmp_path).put(f"uploads/{key}.png", data.getvalue())
    config = WorkerConfig(models=(f"tiny={family_folder('sd1')}",), device="cpu", threads=1, artifacts=tmp_path)
    model = load_models(config)[1]["tiny"]
    picture = {"init_image": "uploads/picture.png", "mask_image": "uploads/mask.png" if masked else ""}
    plan = model.prepare(job(**picture, strength=0.75, images=2))

    def two(spilled):
        (conditioning,) = model.encode([plan]).conditioning
        first = model.begin(plan, conditioning, 7)
        model.step([first])
        if spilled:
            model.park(first)
            model.spill(first)
        second = finish(model, model.begin(plan, conditioning, 8))
        if spilled:
            model.recall(first)
        return finish(model, first), second

    kept = two(spilled=False)
    elsewhere = Elsewhere()
    monkeypatch.setattr(Device, "to_host", lambda _, tensor: elsewhere.to_host(tensor))
    monkeypatch.setattr(Device, "to_device", lambda _, tensor: elsewhere.to_device(tensor))
    for one, other in zip(kept, two(spilled=True), strict=True):
        assert torch.equal(one, other)


def text_adapter(encoder, rank, prefix):
    """Random, for one text encoder, strong enough to show."""
    encoder.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"]), "made")
    state = get_peft_model_state_dict(encoder, adapter_name="made")
    encoder.delete_adapter("made")
    return {f"{prefix}.{name}": torch.randn_like(tensor) * 0.15 for name, tensor in state.items()}


def with_text_adapters(family, folder, root, **settings):
    """A model and two LoRAs, a and b, of all its CLIP text encoders."""
    import diffusers
    from safetensors.torch import save_file

    without = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd35" else {"safety_checker": None}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **without)
    torch.manual_seed(5)
    for name, rank in {"a": 4, "b": 8}.items():
        state = {}
        for part in ("text_encoder", "text_encoder_2"):
            if getattr(pipeline, part, None) is not None:
                state |= text_adapter(getattr(pipeline, part), rank, part)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, root / f"{name}.safetensors")
    (root / "tiny").symlink_to(folder)
    config = WorkerConfig(models=(), models_dir=root, device="cpu", threads=1, text_cache_mib=0, **settings)
    library = open_library(config)
    library.shelf.look()
    return library.shelf.load("tiny", lambda _: None)


def texts(model, jobs):
    return [one.texts for one in model.encode([model.prepare(each) for each in jobs]).conditioning]


def same(one, other):
    return all(torch.equal(mine[name], theirs[name]) for mine, theirs in zip(one, other, strict=True) for name in mine)


def test_adapters_of_several_text_encoders_are_right_or_refused_however_little_memory_there_is(family_folder, tmp_path):
    model = with_text_adapters("sd35", family_folder("sd35"), tmp_path)
    jobs = [job(loras=(Lora(name, 2.0),)) for name in ("a", "b")]
    right, bank = texts(model, jobs), model._adapters.bank
    most, refused = bank.allocated, 0
    for budget in range(most // 4, most + 1, 1024):
        bank.clear()
        bank.budget_bytes = budget
        try:
            found = texts(model, jobs)
        except MemoryError:
            refused += 1
        else:
            for one, other in zip(found, right, strict=True):
                assert all(torch.allclose(one[0][name], other[0][name], atol=1e-5) for name in other[0])
    assert 0 < refused < len(range(most // 4, most + 1, 1024))


def test_a_reproducible_worker_encodes_a_prompt_with_adapters_alike_in_any_company(family_folder, tmp_path):
    settings = {"reproducible": True, "encode_batch": 2, "max_batch": 2}
    model = with_text_adapters("sd1", family_folder("sd1"), tmp_path, **settings)
    jobs = [
        job(prompt=f"a {colour} circle", negative_prompt=f"no {colour}", loras=(Lora(name, 0.7),) if name else ())
        for name in ("a", "b", "")
        for colour in ("red", "green")
    ]
    alone = [texts(model, [each])[0] for each in jobs]
    for first in range(len(jobs)):
        for second in range(first):
            together = texts(model, [jobs[first], jobs[second]])
            assert same(together[0], alone[first])
            assert same(together[1], alone[second])


def test_a_model_that_has_left_the_directory_before_it_is_loaded_is_said_to_be_gone(family_folder, tmp_path):
    (tmp_path / "tiny").symlink_to(family_folder("sd1"))
    config = WorkerConfig(models=(), models_dir=tmp_path, device="cpu", threads=1)
    shelf = DiskShelf({}, config, choose_device(config))
    assert [model.name for model in shelf.look().models] == ["tiny"]
    (tmp_path / "tiny").unlink()
    assert not shelf.look().models
    with pytest.raises(ModelUnusable, match="not there any more"):
        shelf.load("tiny", lambda _: None)


def test_a_model_that_nobody_runs_is_listed_with_the_reason(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("sd1"), tmp_path / "new")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "NewPipeline"}))
    config = WorkerConfig(models=(), models_dir=tmp_path, device="cpu", threads=1)
    (model,) = DiskShelf({}, config, choose_device(config)).look().models
    assert (model.name, model.info) == ("new", None)
    assert "is a NewPipeline, which this version does not run" in model.fault
