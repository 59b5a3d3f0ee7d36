"""The table of known models in the documentation is what the command prints."""

from __future__ import annotations

from luthier.cluster.planning.known_models import table
from tests.conftest import ROOT


def test_the_documented_table_is_what_the_command_prints() -> None:
    assert table() in (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
