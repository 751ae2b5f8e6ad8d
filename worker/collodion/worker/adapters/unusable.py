"""The one error of this room."""

from collodion.worker.registry.errors import ModelUnusable


class AdapterUnusable(ModelUnusable):
    """An adapter that cannot be applied. `reason` is a sentence that names the file and the first key that is not understood."""
