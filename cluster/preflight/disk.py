"""How much a run will write, from its config and the headers of the weights."""

from __future__ import annotations

from luthier.cluster.planning.storage import storage
from luthier.cluster.preflight.model import cheap_shapes
from luthier.config import RunConfig
from luthier.errors import ModelError

_SPARE_BYTES = 2**28  # metrics, tokenizer, reports

STORAGE = "storage_path"
REGISTRY = "registry.uri"


def written_bytes(cfg: RunConfig) -> dict[str, int]:
    """The least that a training needs free at each place, by the key of the place.

    One checkpoint more is there than is kept while the next one is written, and an artifact of the best one. Sweeps
    clean up behind each trial. A model whose shapes are not known cheaply counts nothing.
    """
    try:
        shapes = cheap_shapes(cfg.model)
    except ModelError:  # told by the check of the model
        shapes = None
    if shapes is None:
        return {STORAGE: _SPARE_BYTES, REGISTRY: _SPARE_BYTES}
    room = storage(shapes, cfg.train)
    artifact = room.artifact_bytes // 2  # one in the run's directory, one in the registry
    return {STORAGE: room.checkpoints_bytes + artifact + _SPARE_BYTES, REGISTRY: artifact + _SPARE_BYTES}
