"""Adapters of every kind: trained for real, saved, and then the same model on the unchanged base and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.config.model import ModelConfig
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.exporting import merged
from luthier.serving.adapters import adapter_problem
from luthier.trainers.batches import collate
from luthier.trainers.export import write_weights
from luthier.trainers.loss import SumLoss
from luthier.trainers.model import build_trainable, load_adapter, load_base
from luthier.trainers.strategies import Worker, build_strategy
from luthier.trainers.tokens import Encoded

MODEL = ModelConfig(model_name_or_path="made-here", attn_implementation="eager")
IDS_BS = torch.arange(1, 25).view(2, 12)

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "olora": {"init_lora_weights": "olora"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_niter": {"init_lora_weights": "pissa_niter_4"},
    "pissa with rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "norm too": {"lora_modules_to_save": ["norm"]},
    "head too": {"lora_modules_to_save": ["lm_head"]},
    "embeddings too": {"lora_modules_to_save": ["embed_tokens"]},
}
NOT_SERVED = {"dora", "norm too", "head too", "embeddings too"}


TIED = ("lora", *(kind for kind in KINDS if kind.endswith("too")))
"""Kinds that are also tried where head and embeddings are one matrix."""

CASES = [*((kind, False) for kind in KINDS), *((kind, True) for kind in TIED)]


@pytest.fixture(scope="module")
def base_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A small Llama, by whether its head and its embeddings are one matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    directories = {tied: tmp_path_factory.mktemp("base") for tied in (True, False)}
    for tied, directory in directories.items():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
        LlamaForCausalLM(config).save_pretrained(directory)
    return directories


@pytest.fixture(scope="module")
def base_dir(base_dirs: dict[bool, Path]) -> Path:
    return base_dirs[False]


def settings(**changes: Any) -> TrainConfig:
    constant = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    shared = {"bf16": False, "learning_rate": 0.01, "lora_r": 4, "lora_alpha": 8.0, **constant}
    return TrainConfig.model_validate({**shared, **changes})


def trained(base_dir: Path, train: TrainConfig, num_steps: int = 3) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model after some real steps, and its trained weights."""
    torch.manual_seed(1)
    model = build_trainable(base_dir, MODEL, train)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    strategy = build_strategy(train, SumLoss(model), Worker(0, 1, torch.device("cpu")), num_steps)
    rows = [Encoded(f"{n}", tuple(ids), tuple(ids)) for n, ids in enumerate(IDS_BS.tolist())]
    batch = collate(rows, 0)
    losses = []
    for _ in range(num_steps):
        losses.append(float(strategy.forward_backward(batch, batch.num_loss_tokens, last=True)))
        strategy.step()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before)
    return model.eval(), strategy.trained_weights()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS_BS).logits
    return found


@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_a_saved_adapter_on_the_unchanged_base_is_the_trained_model(
    kind: str, tied: bool, base_dirs: dict[bool, Path], tmp_path: Path
) -> None:
    base_dir, train = base_dirs[tied], settings(**KINDS[kind])
    model, weights = trained(base_dir, train)
    expected = logits(model)
    base = load_base(base_dir, MODEL, torch.float32)
    assert (logits(base) - expected).abs().max() > 0.05  # it learnt something, so that an idle adapter would show
    write_weights(model, weights, tmp_path)
    loaded = load_adapter(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)
    whole = merged(tmp_path / "adapter", base_dir, MODEL)
    torch.testing.assert_close(logits(whole), expected, atol=1e-4, rtol=1e-4)
    whole.save_pretrained(tmp_path / "merged")
    read = load_base(tmp_path / "merged", MODEL, torch.float32)
    torch.testing.assert_close(logits(read), expected, atol=1e-4, rtol=1e-4)
    # What was told before training of the adapter that would be saved, and of whether the server loads it:
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"]) == (train.saved_lora_r, pytest.approx(train.saved_lora_alpha))
    assert (adapter_problem(written, 64) is not None) == (train.not_servable is not None) == (kind in NOT_SERVED)


def test_a_start_that_changes_the_base_needs_its_conversion(base_dir: Path, tmp_path: Path) -> None:
    model, weights = trained(base_dir, settings(init_lora_weights="pissa"))
    write_weights(model, weights, tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    halves = {name: weight.chunk(2, 0 if "lora_A" in name else 1)[0] for name, weight in load_file(file).items()}
    save_file({name: weight.contiguous() for name, weight in halves.items()}, file)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 4, "lora_alpha": 8.0}))
    loaded = load_adapter(load_base(base_dir, MODEL, torch.float32), tmp_path / "adapter")
    assert (logits(loaded) - logits(model)).abs().max() > 0.05


@pytest.mark.parametrize("tied", [False, True])
def test_frozen_layers_stay_and_the_model_is_written_whole(
    tied: bool, base_dirs: dict[bool, Path], tmp_path: Path
) -> None:
    train = settings(method="full", freeze_layers=1, freeze_modules=["model.layers.1.mlp"])
    before = load_base(base_dirs[tied], MODEL, torch.float32).state_dict()
    model, weights = trained(base_dirs[tied], train)
    write_weights(model, weights, tmp_path)
    after = load_base(tmp_path / "model", MODEL, torch.float32).state_dict()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        frozen = "layers.0." in name or "layers.1.mlp." in name or "embed" in name or (tied and "lm_head" in name)
        assert torch.equal(weight, before[name].to(torch.bfloat16).float()) == frozen, name


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such target": ({"lora_target_modules": ["no_proj"]}, "train.lora_target_modules"),
    "no such module to save": ({"lora_modules_to_save": ["head"]}, "'head', which no module .* embed_tokens.* lm_head"),
    "no such module to freeze": ({"method": "full", "freeze_modules": ["mlpp"]}, "'mlpp', which no module"),
    "all frozen": ({"method": "full", "freeze_layers": 2, "freeze_modules": ["norm", "lm_head"]}, "every weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_names_that_the_model_lacks_are_refused(case: str, base_dir: Path) -> None:
    changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        build_trainable(base_dir, MODEL, settings(**changes))


def test_4_bit_weights_are_refused_where_there_is_no_gpu(base_dir: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    on_gpu = settings(load_in_4bit=True, resources_per_worker={"CPU": 1, "GPU": 1})
    with pytest.raises(ConfigError, match=r"train\.load_in_4bit needs a GPU and bitsandbytes"):
        build_trainable(base_dir, MODEL, on_gpu)
