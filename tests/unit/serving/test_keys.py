"""Keys: what is kept of them, what they open, and a file that changes while it is read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from luthier.errors import ConfigError
from luthier.serving.keys import ApiKey, KeyRing, add_key, bearer, digest_of, read_keys, revoke_key

MASTER = ApiKey(name="master", sha256=digest_of("master-key"))


def test_only_a_digest_is_kept_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    key = add_key(path, "team", ["demo", "other@2"], 60)
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (kept,) = read_keys(path)
    assert (kept.name, kept.sha256, kept.models, kept.requests_per_minute) == (
        "team",
        digest_of(key),
        ("demo", "other@2"),
        60,
    )
    assert len(key) > 40


def test_two_keys_are_never_alike(tmp_path: Path) -> None:
    assert add_key(tmp_path / "keys.json", "a", [], None) != add_key(tmp_path / "keys.json", "b", [], None)


@pytest.mark.parametrize(
    ("models", "canonical", "opens"),
    [
        (("*",), "demo@1", True),
        (("demo",), "demo@1", True),
        (("demo@1",), "demo@1", True),
        (("demo@1",), "demo@2", False),
        (("dem",), "demo@1", False),
        (("demo@champion",), "demo@1", False),
        (("base",), "base", True),
    ],
)
def test_what_a_key_opens(models: tuple[str, ...], canonical: str, opens: bool) -> None:
    assert ApiKey(name="k", sha256="0" * 64, models=models).admits(canonical) is opens


def test_keys_come_and_go_while_the_ring_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = add_key(path, "first", [], None)
    ring = KeyRing(MASTER, path)
    second = add_key(path, "second", [], None)
    assert ring.find(second.encode()) is None
    assert ring.refresh()
    assert not ring.refresh()
    found = ring.find(second.encode())
    assert found is not None
    assert found.name == "second"
    revoke_key(path, "first")
    ring.refresh()
    assert ring.find(first.encode()) is None
    assert ring.find(b"master-key") == MASTER


def test_a_file_that_breaks_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "team", [], None)
    ring = KeyRing(MASTER, path)
    path.write_text('{"keys": [{"name": "x"}]}')
    with pytest.raises(ConfigError, match=r"keys\.json: keys\.0\.sha256: Field required"):
        ring.refresh()
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        ring.refresh()
    assert ring.find(key.encode()) is not None


def test_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "team", [], None)
    with pytest.raises(ConfigError, match="there is a key named 'team'"):
        add_key(path, "team", [], None)
    with pytest.raises(ConfigError, match="no key named 'teem'; keys are: team"):
        revoke_key(path, "teem")
    with pytest.raises(ConfigError, match="name: 'Te am'"):
        add_key(path, "Te am", [], None)
    with pytest.raises(ConfigError, match="requests_per_minute: 0"):
        add_key(path, "other", [], 0)
    assert [key.name for key in read_keys(path)] == ["team"]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (b"Bearer k", b"k"),
        (b"bearer  k ", b"k"),
        (b"Basic dXNlcjprOng=", b"k:x"),
        (b"Basic !!", b""),
        (b"Digest k", b""),
        (b"", b""),
    ],
)
def test_where_a_key_stands_in_the_header(header: bytes, key: bytes) -> None:
    assert bearer(header) == key


def test_a_dry_run_writes_nothing_and_tells_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "team", [], None, write=False)
    assert not path.exists()
    add_key(path, "team", [], None)
    revoke_key(path, "team", write=False)
    assert [key.name for key in read_keys(path)] == ["team"]
    with pytest.raises(ConfigError, match="there is a key named 'team'"):
        add_key(path, "team", [], None, write=False)
