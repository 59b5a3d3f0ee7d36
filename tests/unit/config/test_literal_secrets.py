"""A secret that stands in a config is refused, and not repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config import load_config
from luthier.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("override", "secret"),
    [
        ("storage_path=s3://KEY:hunter2hunter2@bucket/runs", "hunter2hunter2"),
        ("registry.uri=az://models/x?sig=abcdefgh1234", "abcdefgh1234"),
        ("secrets.HF_TOKEN=whatever-it-is", "whatever-it-is"),
        ("secrets.HF_TOKEN={env: hf_abcdefghijklmnopqrstuvwxyz0123456789}", "hf_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("train.hub_token=not-even-a-key", "not-even-a-key"),
        ("datasets.0.system=Use AKIAABCDEFGHIJKLMNO1 for it", "AKIAABCDEFGHIJKLMNO1"),
    ],
)
def test_a_literal_secret_is_refused(override: str, secret: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(ROOT / "configs" / "quickstart.yaml", [override])
    told = str(refused.value)
    assert secret not in told
    assert override.partition("=")[0] in told.replace("[", ".").replace("]", "")
    assert "{env: HF_TOKEN}" in told


def test_references_and_what_sounds_alike_are_none() -> None:
    fine = [
        "secrets.HF_TOKEN={env: HF_TOKEN}",
        "secrets.AWS_SECRET_ACCESS_KEY={file: /run/secrets/aws}",
        "serve.api_key_env=MY_KEY",
        "storage_path=s3://bucket/runs",
    ]
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", fine)
    assert str(cfg.secrets["HF_TOKEN"]) == "environment variable HF_TOKEN"


@pytest.mark.parametrize("reference", ["{}", "{env: A, file: b}", "{env: not-a-name}"])
def test_a_reference_names_one_place(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"secrets\.HF_TOKEN"):
        load_config(ROOT / "configs" / "quickstart.yaml", [f"secrets.HF_TOKEN={reference}"])
