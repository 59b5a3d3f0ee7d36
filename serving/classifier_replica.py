"""The deployment around a classifier, which Ray has no server for. Importing it costs nothing: torch is imported where the
classifier runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray import serve

from luthier.precision import Dtype, served_dtype
from luthier.serving.names import Refused
from luthier.serving.replies import INTERNAL, Part
from luthier.serving.spec import EngineSpec, Route

logger = logging.getLogger("ray.serve")


class ClassifierServer:
    """One replica of a classifier. Requests that come while a batch is computed are the next batch.

    Args:
        spec: What it serves.
    """

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits a replica's constructor
        import torch

        from luthier.serving.classifier import Classifier

        torch.set_num_threads(max(1, int(spec.serve.num_cpus)))
        device = "cuda" if spec.gpu else "cpu"
        self._dtype = served_dtype(spec.serve.dtype, device)
        self._classifier = await asyncio.to_thread(
            Classifier,
            Path(spec.model_dir),
            Path(spec.tokenizer_dir),
            spec.serve.max_model_len,
            self._dtype,
            device,
        )
        self._scores.set_max_batch_size(spec.serve.max_num_seqs)
        self._tokenising = ThreadPoolExecutor(max_workers=1)  # a tokenizer is one thread's at a time

    async def dtype(self) -> Dtype:
        """What it computes in."""
        return self._dtype

    async def answer(self, route: Route, body: dict[str, Any]) -> AsyncIterator[Part]:
        """Answer one request.

        Args:
            route: What is asked for; always ``classify``.
            body: The checked request, its ``model`` a canonical name.

        Yields:
            One failure, or the whole answer.
        """
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        try:
            encoded = await asyncio.get_running_loop().run_in_executor(
                self._tokenising, self._classifier.encode, texts, body.get("truncate_prompt_tokens")
            )
            scores = await self._scores(encoded)
            yield reply(body["model"], self._classifier.labels, scores, sum(map(len, encoded)))
        except Refused as error:
            yield error.failure
        except Exception:
            logger.exception("a request failed")
            yield INTERNAL

    @serve.batch(batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _scores(self, requests: list[list[tuple[int, ...]]]) -> list[list[list[float]]]:
        """Probabilities for the texts of several requests."""
        together = await asyncio.to_thread(self._classifier.score, [ids for texts in requests for ids in texts])
        rest = iter(together)
        return [[next(rest) for _ in texts] for texts in requests]


def reply(model: str, labels: Sequence[str], scores: Sequence[Sequence[float]], num_tokens: int) -> dict[str, Any]:
    """The answer, as vLLM writes it, and the scores by label besides.

    Args:
        model: Canonical name of the model.
        labels: The classes, by index.
        scores: For each text the probability of each class.
        num_tokens: Tokens of all texts.
    """
    data = [
        {
            "index": index,
            "label": labels[max(range(len(labels)), key=probabilities.__getitem__)],
            "probs": list(probabilities),
            "num_classes": len(labels),
            "scores": dict(zip(labels, probabilities, strict=True)),
        }
        for index, probabilities in enumerate(scores)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0}
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage,
    }
