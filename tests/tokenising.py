"""The tokenising stage in a test's own process, in place of those of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from luthier.trainers import tokenise
from luthier.trainers.objectives import Objective


def tokenised_here(sources: Sequence[tokenise.Source], objective: Objective, *beside: Any) -> Iterator[pa.Table]:
    """What :func:`luthier.trainers.tokenise.tokenised` gives, made here: no process starts, and what is held counts here."""
    stage = tokenise.Tokenise(objective, *beside)
    return (stage(table) for source in sources for table in tokenise.row_tables(source))
