"""Settings of the doctor and of redaction, as they are written in a config or on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config import json_schema, load_config
from luthier.config.checks import RedactionConfig
from luthier.config.data import DataConfig
from luthier.errors import ConfigError

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"


def test_redaction_is_a_word_or_a_section() -> None:
    assert DataConfig().redact is None
    assert DataConfig.model_validate({"redact": "mask"}).redact == RedactionConfig()
    section = {"way": "hash", "kinds": ["email"], "hash_key_env": "DATA_KEY"}
    cfg = load_config(QUICKSTART, [f"data.redact={section}", "data.checks.max_leakage=null"])
    assert cfg.data.redact == RedactionConfig(way="hash", kinds=("email",), hash_key_env="DATA_KEY")
    assert cfg.data.checks.max_leakage is None


def test_the_schema_allows_the_word() -> None:
    redact = json_schema()["$defs"]["DataConfig"]["properties"]["redact"]
    assert "mask" in str(redact) and "RedactionConfig" in str(redact)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.redact=erase", "data.redact is 'erase'"),
        ("data.redact=hash", "hash_key_env"),
        ("data.checks.near_duplicates=0.2", "data.checks.near_duplicates"),
        ("data.checks.max_leakage=2", "data.checks.max_leakage"),
        ("data.checks.pii=[name]", "data.checks.pii"),
    ],
)
def test_what_can_not_be_is_refused_by_its_key(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(QUICKSTART, [override])
    assert told in str(caught.value)
