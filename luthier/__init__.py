"""luthier: distributed fine-tuning of language models on Ray, from data to a live endpoint.

The verbs of the command line are functions here too::

    import luthier

    cfg = luthier.load_config("configs/quickstart.yaml", ["train.learning_rate=1e-4"])
    result = luthier.train(cfg)

Each is imported when it is first used, so that ``import luthier`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.api import check_data, evaluate, export, run, serve, train, tune
    from luthier.cluster.planning.plan import plan
    from luthier.config import load_config

__version__ = "0.1.0"

__all__ = ["check_data", "evaluate", "export", "load_config", "plan", "run", "serve", "train", "tune"]

_ELSEWHERE = {"load_config": "luthier.config", "plan": "luthier.cluster"}


def __getattr__(name: str) -> Any:
    """Import a verb when it is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "luthier.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
