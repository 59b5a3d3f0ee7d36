"""Registered models behind an OpenAI-compatible endpoint. The only user of ``ray.serve``."""

from __future__ import annotations

from luthier.serving.address import require_free_port
from luthier.serving.client import ask, classify, greet
from luthier.serving.controller import is_up
from luthier.serving.deploy import declare, deploy, roll_out, shut_down, stop
from luthier.serving.endpoint import Endpoint
from luthier.serving.parity import ParityReport, check_parity
from luthier.serving.score_parity import ScoreReport, check_scores
from luthier.serving.spec import Base

__all__ = [
    "Base",
    "Endpoint",
    "ParityReport",
    "ScoreReport",
    "ask",
    "check_parity",
    "check_scores",
    "classify",
    "declare",
    "deploy",
    "greet",
    "is_up",
    "require_free_port",
    "roll_out",
    "shut_down",
    "stop",
]
