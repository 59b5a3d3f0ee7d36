"""Registered models behind an OpenAI-compatible endpoint. The only user of ``ray.serve``."""

from __future__ import annotations

from luthier.serving.address import require_free_port
from luthier.serving.client import ChatReply, ask
from luthier.serving.controller import is_up
from luthier.serving.deploy import deploy, roll_out, shut_down, stop
from luthier.serving.endpoint import Endpoint
from luthier.serving.parity import ParityReport, check_parity

__all__ = [
    "ChatReply",
    "Endpoint",
    "ParityReport",
    "ask",
    "check_parity",
    "deploy",
    "is_up",
    "require_free_port",
    "roll_out",
    "shut_down",
    "stop",
]
