"""An adapter's matrices against the layers of its base, from the files' headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from luthier.serving.shapes import shape_problem

LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    save_file({f"{LAYER}.weight": torch.zeros(6, 10)}, tmp_path / "model" / "model-00001-of-00002.safetensors")
    save_file({"model.norm.weight": torch.zeros(6)}, tmp_path / "model" / "model-00002-of-00002.safetensors")
    return tmp_path / "model"


def adapter(directory: Path, a: tuple[int, ...], b: tuple[int, ...], layer: str = LAYER) -> Path:
    matrices = {"A": torch.zeros(a), "B": torch.zeros(b)}
    named = {f"base_model.model.{layer}.lora_{side}.weight": matrix for side, matrix in matrices.items()}
    save_file(named, directory / "adapter_model.safetensors")
    return directory


def test_one_that_fits_has_no_problem(tmp_path: Path, model_dir: Path) -> None:
    assert shape_problem(adapter(tmp_path, (4, 10), (6, 4)), model_dir) is None


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        ((4, 9), (6, 4), r"lora_A.weight has the shape \[4, 9\], .* \[6, 10\]"),
        ((4, 10), (7, 4), r"lora_B.weight has the shape \[7, 4\]"),
        ((4, 10, 1), (6, 4), "lora_A"),
    ],
)
def test_one_that_does_not_fit_is_told(
    tmp_path: Path, model_dir: Path, a: tuple[int, ...], b: tuple[int, ...], named: str
) -> None:
    problem = shape_problem(adapter(tmp_path, a, b), model_dir)
    assert problem is not None
    assert re.search(named, problem)


def test_layers_that_the_bases_files_do_not_name_are_left_to_the_engine(tmp_path: Path, model_dir: Path) -> None:
    assert shape_problem(adapter(tmp_path, (4, 9), (7, 4), layer="lm_head"), model_dir) is None


def test_a_file_that_is_none_is_told(tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    problem = shape_problem(tmp_path, model_dir)
    assert problem is not None
    assert "can't be read" in problem
