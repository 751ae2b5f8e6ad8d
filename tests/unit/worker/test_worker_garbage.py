"""What the garbage collector is spared while steps run."""

import gc

from collodion.worker.garbage import keep_collections_short


def test_what_is_there_at_the_start_is_not_walked_through_whenever_a_model_is_loaded():
    thresholds = gc.get_threshold()
    try:
        keep_collections_short()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[2] > 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
