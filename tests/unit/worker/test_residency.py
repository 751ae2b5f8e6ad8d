"""Which models are loaded next, come in and leave: the records, without threads or weights."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.wire.jobs import ModelInfo, Residency
from collodion.wire.to_worker import ResidencyWish
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.residency import Residents
from collodion.worker.shelf import Contents, NotWished, ShelvedModel

MIB = 1 << 20


def pipeline(name, mib=1):
    return Simulated(name, WorkerConfig(), mib * MIB)


def info(name) -> ModelInfo:
    return pipeline(name).info


def shelved(*names, mib=1, edition="", fault=""):
    return Contents(tuple(ShelvedModel(name, info(name), mib * MIB, edition, fault) for name in names))


def wish(*names, number=1, scheduler="s"):
    return ResidencyWish(scheduler=scheduler, worker="w", number=number, models=names)


class Driven(Residents):
    """With what its threads would do, done by hand."""

    def due(self):
        """What the loader would be given now, if anything."""
        with self._changed:
            name = self._wanted()
            return name if name is not None and self._has_room(name) else None

    def load(self, name, mib=1):
        assert self.due() == name
        assert self.next() == name
        self.loaded(name, pipeline(name, mib), 0.5)

    def leave(self, *needed):
        """A boundary at which models leave, and their memory with them."""
        self.release(self.turn(needed).left)
        self.close_released()

    def where(self):
        return {status.name: status.residency for status in self.standing().statuses}


@pytest.fixture
def models():
    residents = Driven(budget_bytes=2 * MIB)
    residents.shelve(shelved("a", "b", "c"))
    return residents


def test_until_the_first_wish_nothing_is_loaded_and_nothing_leaves(models):
    models.keep("a", pipeline("a"), 0.1)
    assert models.due() is None
    assert models.turn(()).left == ()
    assert models.where() == {"a": Residency.RESIDENT, "b": Residency.ON_DISK, "c": Residency.ON_DISK}


def test_what_is_wished_for_is_loaded_in_order_and_resident_from_the_next_boundary(models):
    models.take(wish("b", "a"))
    models.load("b")
    assert models.where()["b"] is Residency.LOADING
    assert not models.has("b")
    assert models.turn(()).arrived == ("b",)
    assert models.has("b")
    assert models.due() == "a"


def test_a_model_that_latents_are_held_of_stays_until_they_are_gone(models):
    models.keep("a", pipeline("a"), 0.1)
    models.take(wish("b"))
    assert models.turn({"a"}).left == ()
    assert models.has("a")
    assert models.unsettled
    left = models.turn(()).left
    assert [name for name, _ in left] == ["a"]
    assert not models.has("a")
    assert not models.unsettled


def test_loading_waits_for_room_that_is_being_made(models):
    models.keep("a", pipeline("a"), 0.1)
    models.keep("c", pipeline("c"), 0.1)
    models.take(wish("b", "c"))
    assert models.due() is None
    left = models.turn(()).left
    assert models.due() is None, "it is out, and its memory is not given back"
    models.release(left)
    assert models.next() == ""
    models.close_released()
    assert models.due() == "b"


@pytest.mark.parametrize("budget_mib", [3, 0])
def test_loading_does_not_wait_where_both_have_room(budget_mib):
    models = Driven(budget_bytes=budget_mib * MIB)
    models.shelve(shelved("a", "b"))
    models.keep("a", pipeline("a"), 0.1)
    models.take(wish("b"))
    assert models.due() == "b"


def test_a_wish_that_is_older_than_the_last_changes_nothing(models):
    models.take(wish("a", number=2))
    models.take(wish("b", number=1))
    models.take(wish("b", number=2))
    assert models.due() == "a"
    assert (models.standing().scheduler, models.standing().wished) == ("s", 2)


def test_another_scheduler_begins_anew(models):
    models.take(wish("a", number=7))
    models.take(wish("b", number=1, scheduler="t"))
    assert models.due() == "b"
    assert (models.standing().scheduler, models.standing().wished) == ("t", 1)


def test_what_is_not_wished_for_any_more_is_not_loaded_to_its_end(models):
    models.take(wish("a"))
    models.next()
    models.progressed("a", 0.5)
    models.take(wish("b", number=2))
    with pytest.raises(NotWished):
        models.progressed("a", 0.6)
    models.failed("a", "")
    assert models.where()["a"] is Residency.ON_DISK
    assert models.due() == "b"


def test_what_was_loaded_though_nobody_wants_it_any_more_never_gets_in(models):
    models.take(wish("a"))
    models.next()
    models.take(wish("b", number=2))
    models.loaded("a", pipeline("a"), 0.1)
    turn = models.turn(())
    assert turn.arrived == ()
    assert [name for name, _ in turn.left] == ["a"]


def test_what_failed_is_tried_again_when_a_later_wish_names_it(models):
    models.take(wish("a", "b"))
    models.next()
    models.failed("a", "it is broken")
    status = models.standing().statuses[0]
    assert (status.residency, status.reason) == (Residency.FAILED, "it is broken")
    assert models.due() == "b"
    models.take(wish("a", "b", number=2))
    assert models.where()["a"] is Residency.ON_DISK
    assert models.due() == "a"


def test_what_failed_is_tried_again_when_its_files_have_changed(models):
    models.take(wish("a"))
    models.next()
    models.failed("a", "it is broken")
    models.shelve(shelved("a", mib=2))
    assert models.due() is None
    models.shelve(shelved("a", edition="mended"))
    assert models.due() == "a"


def test_what_cannot_be_used_says_why_and_is_never_loaded(models):
    models.shelve(Contents((ShelvedModel("broken", None, fault="its header is longer than its file"),)))
    models.take(wish("broken"))
    assert models.due() is None
    standing = models.standing()
    assert standing.models == ()
    assert [(one.residency, one.reason) for one in standing.statuses] == [
        (Residency.FAILED, "its header is longer than its file")
    ]


def test_a_resident_model_whose_files_are_gone_is_forgotten_only_when_it_leaves(models):
    models.keep("a", pipeline("a"), 0.1)
    models.shelve(shelved("b"))
    assert models.where() == {"b": Residency.ON_DISK, "a": Residency.RESIDENT}
    models.take(wish("b"))
    models.turn(())
    assert models.where() == {"b": Residency.ON_DISK}


def test_sizes_and_times_are_those_that_were_measured_once_they_are(models):
    before = models.standing().statuses[0]
    assert (before.size_bytes, before.load_s, before.pinned) == (MIB, None, False)
    models.take(wish("a"))
    models.load("a", mib=3)
    models.turn(())
    after = models.standing().statuses[0]
    assert (after.size_bytes, after.load_s) == (3 * MIB, 0.5)


def test_files_that_change_between_a_models_loading_and_its_boundary_end_nothing(models):
    models.take(wish("a"))
    models.load("a")
    models.shelve(shelved("a", "b", "c", edition="new"))
    models.turn(())
    models.take(wish("b", number=2))
    assert models.due() == "b"


def test_what_a_model_took_is_not_believed_of_other_files_under_its_name(models):
    models.take(wish("a"))
    models.load("a", mib=2)
    models.turn(())
    models.shelve(shelved("a", "b", "c", edition="new"))
    assert models.standing().statuses[0].size_bytes == 2 * MIB
    models.take(wish(number=2))
    models.turn(())
    assert models.standing().statuses[0].size_bytes == MIB


def test_only_news_raise_the_version(models):
    version = models.version
    models.shelve(shelved("a", "b", "c"))
    models.turn(())
    assert models.version == version
    models.take(wish("a"))
    assert models.version > version


def test_a_loader_that_waits_is_let_go_at_the_end(models):
    models.close()
    assert models.next() is None


_WISHES = st.lists(st.sampled_from("abcd"), max_size=3, unique=True)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(_WISHES, st.sets(st.sampled_from("abcd")), st.integers(0, 3)), max_size=12))
def test_whatever_is_wished_for_comes_and_nothing_goes_that_is_needed(rounds):
    """Each round a wish that fits, models that latents are held of, and so many boundaries, with a load wherever one is due."""
    models = Driven(budget_bytes=3 * MIB)
    models.shelve(shelved(*"abcd"))
    wished = []
    for number, (names, needed, boundaries) in enumerate(rounds, start=1):
        wished = names
        models.take(wish(*names, number=number))
        for _ in range(boundaries):
            there = {name for name in "abcd" if models.has(name)}
            turn = models.turn(needed)
            assert not {name for name, _ in turn.left} & needed & there
            models.release(turn.left)
            models.close_released()
            if (name := models.due()) is not None:
                models.load(name)
            taken = [name for name, where in models.where().items() if where is not Residency.ON_DISK]
            assert len(taken) <= 3
    for _ in range(8):  # nobody needs anything any more
        models.leave()
        if (name := models.due()) is not None:
            models.load(name)
    assert {name for name in "abcd" if models.has(name)} == ({*wished} if rounds else set())
