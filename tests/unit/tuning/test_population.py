"""What a population may change its settings to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from luthier.config.domains import Domain
from luthier.tuning.scheduler import _within


@pytest.mark.parametrize(
    ("domain", "value", "expected"),
    [
        ({"type": "uniform", "low": 0.0, "high": 0.1}, 0.111, 0.1),
        ({"type": "loguniform", "low": 1e-5, "high": 1e-2}, 8e-6, 1e-5),
        ({"type": "loguniform", "low": 1e-5, "high": 1e-2}, 1e-3, 1e-3),
        ({"type": "quniform", "low": 0.0, "high": 0.2, "q": 0.05}, 0.12, 0.1),
        ({"type": "quniform", "low": 0.0, "high": 0.2, "q": 0.05}, 0.24, 0.2),
        ({"type": "choice", "values": [0.1, 0.5]}, 0.5, 0.5),
    ],
)
def test_a_changed_setting_stays_in_its_domain(domain: dict[str, Any], value: float, expected: float) -> None:
    assert _within(TypeAdapter(Domain).validate_python(domain), value) == pytest.approx(expected)
