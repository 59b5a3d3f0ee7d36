"""What a run teaches, and the settings that one objective alone has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from luthier.config.base import Config

ObjectiveName = Literal["sft", "pretraining", "classification", "dpo"]


class DpoConfig(Config):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the model is held to the reference; IPO's tau."""

    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """``sigmoid``: DPO. ``ipo``: the squared loss of Azar et al. 2023, over log-probabilities averaged by token."""

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Share of pairs that are taken to be the wrong way round (conservative DPO, Mitchell 2023); ``sigmoid`` only."""

    @model_validator(mode="after")
    def _smoothing_has_sigmoid(self) -> DpoConfig:
        if self.loss_type != "sigmoid" and self.label_smoothing:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} has no meaning with loss_type: {self.loss_type}; set it to 0, "
                "or loss_type: sigmoid"
            )
        return self


class ClassificationConfig(Config):
    """A new classification head on a pretrained encoder or decoder."""

    freeze_body: bool = False
    """Train the head alone, on features that stay as they are; with ``method: full``. Of an encoder that pools its
    first token (BERT), the pooling layer belongs to the head."""
