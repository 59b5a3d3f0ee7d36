"""The preference loss on a real model: against TRL's on one batch, and against its formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config.model import ModelConfig
from luthier.config.objective import DpoConfig
from luthier.config.train import TrainConfig
from luthier.errors import DataError
from luthier.rows import Message, Row
from luthier.trainers.model import build_trainable
from luthier.trainers.objectives.dpo import Dpo, pair_losses
from luthier.trainers.tokens import IGNORE

ROWS = [
    Row("r:1", (Message("user", "Which section? nmap: port scanner"), Message("assistant", "net")), rejected="sound"),
    Row("r:2", (Message("user", "bc"), Message("assistant", "math, of course")), rejected="mail"),
    Row("r:3", (Message("user", "mutt: mail reader"), Message("assistant", "mail")), rejected="games and science"),
]


@pytest.fixture
def policy(shallow_base_dir: Path) -> Any:
    """The model with an adapter that has moved away from the base."""
    torch.manual_seed(0)
    train = TrainConfig.model_validate({"objective": "dpo", "bf16": False})
    model: Any = build_trainable(shallow_base_dir, ModelConfig(model_name_or_path=str(shallow_base_dir)), train)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval()


@pytest.mark.parametrize("settings", [{}, {"beta": 0.4}, {"loss_type": "ipo", "beta": 0.3}], ids=str)
def test_loss_and_gradient_are_those_of_trl(
    settings: dict[str, Any], policy: Any, shallow_base_dir: Path, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    objective = Dpo(shallow_base_dir, 96, DpoConfig(**settings))
    prompts = [objective.tokenizer.answer_ids(row) for row in ROWS]
    others = [
        objective.tokenizer.answer_ids(Row(r.row_id, (*r.prompt, Message("assistant", str(r.rejected))))) for r in ROWS
    ]
    examples = [
        {"prompt_ids": list(asked), "chosen_ids": list(chosen), "rejected_ids": list(rejected)}
        for (asked, chosen), (_, rejected) in zip(prompts, others, strict=True)
    ]
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        report_to=[],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        beta=objective._settings.beta,
        loss_type=[objective._settings.loss_type],
    )
    text = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    tokenizer = AutoTokenizer.from_pretrained(shallow_base_dir)
    loss_module = objective.loss(policy)
    batch = objective.collate([one for row in ROWS for one in objective.encode(row)])
    weight = next(p for name, p in policy.named_parameters() if "lora_B" in name)
    weight.grad = None
    mine = loss_module(batch) / objective.num_items(batch)
    mine.backward()
    my_gradient = weight.grad.clone()
    tally = dict(zip(objective.tally.names, objective.tally.take(), strict=True))

    trainer = trl.DPOTrainer(model=policy, args=config, train_dataset=text, processing_class=tokenizer)
    # Of an adapter that it did not make itself, TRL takes a copy as the reference; without one, the base.
    policy.delete_adapter("ref")
    policy.set_adapter("default")
    inputs = DataCollatorForPreference(pad_token_id=objective.tokenizer.pad_id)(examples)
    weight.grad = None
    theirs = trainer.compute_loss(trainer.model, inputs)
    theirs.backward()
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert abs(float(mine.detach()) - math.log(2)) > 1e-3
    torch.testing.assert_close(my_gradient, weight.grad, atol=1e-6, rtol=1e-3)
    chosen = trainer._metrics["train" if trainer.model.training else "eval"]["rewards/chosen"][-1]
    assert tally["rewards/chosen"] / len(ROWS) == pytest.approx(chosen, abs=1e-5)


def test_label_smoothing_is_the_loss_with_some_pairs_turned_round() -> None:
    ratios_R, lengths_R = torch.tensor([1.0, -2.0, 0.5, 0.25]), torch.tensor([1, 2, 3, 4])
    plain = pair_losses(ratios_R, lengths_R, DpoConfig(beta=0.5))
    turned = pair_losses(ratios_R.roll(2), lengths_R, DpoConfig(beta=0.5))
    smooth = pair_losses(ratios_R, lengths_R, DpoConfig(beta=0.5, label_smoothing=0.2))
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * turned)
    assert float(plain[0]) == pytest.approx(math.log(1 + math.exp(-0.5 * (1.0 - 0.5))))


def test_a_pair_is_one_row_and_comes_apart_again(shallow_base_dir: Path) -> None:
    objective = Dpo(shallow_base_dir, 96, DpoConfig())
    batch = objective.collate([one for row in ROWS for one in objective.encode(row)])
    assert objective.num_items(batch) == 3 and batch.row_ids == ("r:1", "r:2", "r:3")
    decode = objective.tokenizer.hf.decode
    answers = [decode([t for t in row if t != IGNORE], skip_special_tokens=True) for row in batch.labels_BS.tolist()]
    assert answers == ["net", "math, of course", "mail", "sound", "mail", "games and science"]
    (cut,) = Dpo(shallow_base_dir, 9, DpoConfig()).encode(ROWS[0])
    assert cut.truncated and cut.num_loss_tokens == 0


def test_a_batch_without_rows_has_no_loss_and_keeps_the_graph(policy: Any, shallow_base_dir: Path) -> None:
    objective = Dpo(shallow_base_dir, 96, DpoConfig())
    empty = objective.collate([])
    loss = objective.loss(policy)(empty)
    loss.backward()
    assert (float(loss), objective.num_items(empty), objective.tally.take()) == (0.0, 0, [0.0] * 4)


def test_a_row_without_a_rejected_answer_is_no_pair(shallow_base_dir: Path) -> None:
    objective = Dpo(shallow_base_dir, 96, DpoConfig())
    (alone,) = objective.encode(Row("r:9", ROWS[0].messages))
    with pytest.raises(DataError, match="r:9: holds no two answers"):
        objective.collate([alone])
