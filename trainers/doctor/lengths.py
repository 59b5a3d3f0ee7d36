"""How long rows are, and which are of another kind than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

NUM_BINS = 40
_FAR = 3.0
"""Distances of the quartiles beyond which a value lies far out (Tukey 1977)."""

_LEAST_SPREAD = 0.1
"""Distance of the quartiles, in logarithms, that is taken at least: lengths within a tenth of each other are alike."""

_LEAST_CHARACTERS = 64
"""Below this the template's own tokens are too large a part of a row's to tell anything of its text."""

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lengths:
    """Tokens of a split's rows, with those that were cut off.

    Attributes:
        quantiles: Length that so many per cent of the rows do not exceed.
        counts: Rows by bin of the report's ``length_edges``; the last bin has the longer ones too.
    """

    quantiles: dict[str, int]
    counts: tuple[int, ...]


def edges_of(lengths: Sequence[Numbers], max_length: int) -> tuple[int, ...]:
    """Edges of the bins of all splits, evenly from 0 to where all but a few rows lie, and the limit too."""
    far = max((float(np.quantile(one, 0.999)) for one in lengths if len(one)), default=1.0)
    width = int(max(far, max_length)) // NUM_BINS + 1
    return tuple(range(0, (NUM_BINS + 1) * width, width))


def lengths_of(lengths_N: Numbers, edges: Sequence[int]) -> Lengths:
    """A split's lengths."""
    shares = (5, 50, 95, 99, 100)
    values = np.percentile(lengths_N, shares, method="higher") if len(lengths_N) else [0] * len(shares)
    quantiles = {str(share): int(value) for share, value in zip(shares, values, strict=True)}
    binned, _ = np.histogram(np.minimum(lengths_N, edges[-1] - 1), bins=np.asarray(edges))
    return Lengths(quantiles, tuple(int(count) for count in binned))


def length_outliers(lengths_N: Numbers) -> Mask:
    """Rows far shorter or longer than the rest."""
    return _far_out(np.log(np.maximum(lengths_N, 1)))


def ratio_outliers(lengths_N: Numbers, characters_N: Numbers) -> Mask:
    """Rows of which a character takes far more or fewer tokens than of the rest: another script, digits, noise."""
    told = characters_N >= _LEAST_CHARACTERS
    mask_N = np.zeros(len(lengths_N), dtype=bool)
    mask_N[told] = _far_out(np.log(np.maximum(lengths_N[told], 1) / characters_N[told]))
    return mask_N


def _far_out(values_N: npt.NDArray[np.float64]) -> Mask:
    if not len(values_N):
        return np.zeros(0, dtype=bool)
    first, third = np.quantile(values_N, (0.25, 0.75))
    reach = _FAR * max(third - first, _LEAST_SPREAD)
    return cast(Mask, (values_N < first - reach) | (values_N > third + reach))
