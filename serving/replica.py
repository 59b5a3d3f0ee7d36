"""The deployment around an engine. Importing it costs nothing: vLLM is imported where the engine runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from luthier.precision import Dtype
from luthier.serving import warm
from luthier.serving.replies import Part
from luthier.serving.spec import EngineSpec, Route
from luthier.serving.vllm_log import open_vllm_log


class ModelServer:
    """One replica of an engine.

    Args:
        spec: What it serves.
    """

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits a replica's constructor
        if not spec.gpu:
            warm.begin()
        open_vllm_log()
        from luthier.serving.engine import dtype_of, start
        from luthier.serving.tools import shows_tools

        self._shows_tools = shows_tools(spec.tokenizer_dir)
        self._parses_tools = spec.serve.tool_call_parser is not None
        self._dtype = await dtype_of(spec)
        self._server = await start(spec, self._dtype, shows_tools=self._shows_tools)

    async def dtype(self) -> Dtype:
        """What it computes in."""
        return self._dtype

    async def held(self) -> tuple[str, ...]:
        """The adapters that it holds."""
        names: tuple[str, ...] = self._server.engine.held.names
        return names

    async def answer(self, route: Route, body: dict[str, Any]) -> AsyncIterator[Part]:
        """Check and answer one request.

        Args:
            route: What is asked for.
            body: The request, its ``model`` a canonical name.

        Yields:
            One failure, one whole answer, or the events of a stream.
        """
        from luthier.serving.protocol import failure_of, parse, plain
        from luthier.serving.tools import refuse_tools

        try:
            refuse_tools(body, shown=self._shows_tools, parsed=self._parses_tools)
            async for parts in await getattr(self._server, route)(parse(route, body)):
                for part in parts if isinstance(parts, list) else [parts]:
                    yield plain(part)
        except Exception as error:
            yield failure_of(error)

    async def check_health(self) -> None:
        """Called by Ray Serve; a dead engine raises, and its replica is started anew."""
        await self._server.check_health()
