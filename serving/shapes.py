"""Whether an adapter's matrices fit its base model: vLLM copies what it is given, whatever its shape, and answers on."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

# peft's name of a matrix, such as base_model.model.model.layers.0.mlp.down_proj.lora_A.weight
_MATRIX = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")

Shape = tuple[int, ...]


def shape_problem(adapter_dir: Path, model_dir: Path) -> str | None:
    """Why an adapter does not fit a model; None where it does, as far as the model's files name its layers.

    Only the headers of files are read.

    Args:
        adapter_dir: Holds ``adapter_model.safetensors``.
        model_dir: Holds the base model's safetensors.
    """
    try:
        matrices = shapes_in(adapter_dir / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        return f"its weights can't be read ({error})"
    layers = {name: shape for path in model_dir.glob("*.safetensors") for name, shape in shapes_in(path).items()}
    for name, shape in matrices.items():
        found = _MATRIX.match(name)
        layer = layers.get(f"{found['module']}.weight") if found else None
        if found is None or layer is None:
            continue
        axis = 1 if found["side"] == "A" else 0  # A is (rank, inputs), B is (outputs, rank), a layer (outputs, inputs)
        if len(shape) != 2 or shape[axis] != layer[axis]:
            return f"its {name} has the shape {list(shape)}, which does not fit a layer of shape {list(layer)}"
    return None


def shapes_in(path: Path) -> dict[str, Shape]:
    """The shape of each tensor of a safetensors file.

    Raises:
        SafetensorError, OSError: It is none, or can't be read.
    """
    with safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a mapping
