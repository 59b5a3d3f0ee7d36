"""vLLM's log beside Ray Serve's.

Left to itself, vLLM sets up logging with ``dictConfig``, which closes every handler of the process. A replica whose Serve
handlers are closed logs nothing more, and can't be recovered by a Serve controller that was started anew: the controller
asks it for the path of its log, and takes the failure for the replica's. So vLLM is told to leave logging alone
(``VLLM_CONFIGURE_LOGGING``), and gets its handler here.
"""

from __future__ import annotations

import logging
import os

UNCONFIGURED = {"VLLM_CONFIGURE_LOGGING": "0"}
"""What a process that imports vLLM needs in its environment."""


def open_vllm_log() -> None:
    """Let vLLM write to standard error, which Ray keeps for each worker."""
    logger = logging.getLogger("vllm")
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s -- %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "INFO"))
    logger.propagate = False
