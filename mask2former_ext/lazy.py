"""What LazyConfig files call that has no other name to be called by."""

from __future__ import annotations

from detectron2.data import Metadata, MetadataCatalog


def dataset_metadata(name: str) -> Metadata:
    """The metadata of a dataset.

    ``MetadataCatalog.get`` itself is no target for ``LazyCall``: it is bound to the catalogue, which a saved config
    cannot name and a copied one would copy.
    """
    return MetadataCatalog.get(name)
