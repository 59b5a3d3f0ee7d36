"""Registered models behind an OpenAI-compatible endpoint. The only user of ``ray.serve``."""

from __future__ import annotations

from luthier.serving.address import require_free_port
from luthier.serving.client import ChatReply, ask
from luthier.serving.deploy import deploy, stop
from luthier.serving.endpoint import Endpoint
from luthier.serving.parity import ParityReport, check_parity
from luthier.serving.spec import Base

__all__ = [
    "Base",
    "ChatReply",
    "Endpoint",
    "ParityReport",
    "ask",
    "check_parity",
    "deploy",
    "require_free_port",
    "stop",
]
