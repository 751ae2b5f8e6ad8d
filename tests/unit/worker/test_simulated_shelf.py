"""Simulated models that are loaded: what they cost, what they are said to take, and what goes wrong on demand."""

import pytest

from collodion.process.config import ConfigError
from collodion.wire.jobs import AdapterInfo, AdapterKind
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated_shelf import SimulatedShelf
from collodion.worker.models import load_models, open_library


def shelf(*names, **settings):
    return SimulatedShelf(names, WorkerConfig(**settings))


def test_sizes_are_one_for_all_or_one_for_each():
    contents = shelf("a", "b", simulated_model_mib=("3", "b:0.5")).look()
    assert {model.name: model.size_bytes for model in contents.models} == {"a": 3 << 20, "b": 1 << 19}
    assert [model.info.name for model in contents.models] == ["a", "b"]


def test_loading_tells_of_its_progress_and_gives_a_model_of_the_size_that_was_said():
    told = []
    pipeline = shelf("a", simulated_model_mib=("2",)).load("a", told.append)
    assert told == sorted(told)
    assert (told[0], told[-1] < 1.0) == (0.0, True)
    assert pipeline.weight_bytes == 2 << 20


@pytest.mark.parametrize(("word", "error"), [("raise", RuntimeError), ("memory", MemoryError)])
def test_a_load_may_be_told_to_go_wrong_halfway(word, error):
    told = []
    with pytest.raises(error):
        shelf("a", simulated_load_ms=("0", f"a:{word}")).load("a", told.append)
    assert max(told) < 0.5
    assert shelf("b", simulated_load_ms=("0", f"a:{word}")).load("b", told.append).info.name == "b"


@pytest.mark.parametrize("words", [("a:",), ("b:much",), ("-1",), ("1", "2"), ("a:nan",)])
def test_figures_that_are_none_are_refused(words):
    with pytest.raises(ConfigError, match="simulated_model_mib"):
        shelf("a", simulated_model_mib=words)


def test_simulated_models_may_have_any_names_and_be_kept_or_loaded_on_demand():
    config = WorkerConfig(models=("a=simulated",), on_demand=("b=simulated", "simulated"), model_mib=7)
    library = open_library(config)
    assert [model.name for model in library.shelf.look().models] == ["a", "b", "simulated"]
    assert (library.device, library.pinned, library.budget_bytes) == ("simulated", ("a",), 7 << 20)
    assert list(load_models(config)[1]) == ["a"]


def test_a_model_that_is_named_twice_is_refused():
    with pytest.raises(ConfigError, match="each once"):
        open_library(WorkerConfig(models=("simulated",), on_demand=("simulated",)))


def test_a_worker_without_any_model_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        open_library(WorkerConfig(models=()))


def test_simulated_models_have_the_adapters_that_they_are_said_to_have():
    contents = shelf("a", simulated_adapters=("ink", "wool:whole", "glow:embedding")).look()
    assert contents.adapters == (
        AdapterInfo("ink", AdapterKind.LOW_RANK),
        AdapterInfo("wool", AdapterKind.WHOLE),
        AdapterInfo("glow", AdapterKind.EMBEDDING),
    )


def test_an_adapter_of_no_kind_is_a_wrong_setting():
    with pytest.raises(ConfigError, match="simulated_adapters"):
        shelf("a", simulated_adapters=("ink:blue",))
