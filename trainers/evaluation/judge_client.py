"""Requests to a language model that judges: a bounded number at a time, tries and seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from luthier.config.llm_judge import LlmJudgeConfig
from luthier.trainers.evaluation.pairwise import Pair, Reply

OUT_OF_TIME = "evaluate.judge.max_seconds is over"


def ask_in_both_orders(
    settings: LlmJudgeConfig,
    pairs: Sequence[Pair],
    api_key: str | None,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[tuple[Reply, Reply] | None]:
    """Replies to each pair with the candidate's answer first, and second; None of equal answers, which are not sent.

    Args:
        settings: Whom to ask, and how much.
        pairs: What to compare.
        api_key: The endpoint's key; None: it asks for none.
        seed: Sent with each request.
        on_progress: Called with requests done and in all.
    """
    places = [(number, order) for number, pair in enumerate(pairs) if not pair.is_equal for order in (True, False)]
    asked = [pairs[number].messages(settings.rubric, tuned_first=order) for number, order in places]
    with ThreadPoolExecutor(1) as thread:  # whose event loop is its own, also where the caller has one
        found = thread.submit(asyncio.run, _ask_all(settings, asked, api_key, seed, on_progress)).result()
    replies = dict(zip(places, found, strict=True))
    return [
        None if pair.is_equal else (replies[number, True], replies[number, False]) for number, pair in enumerate(pairs)
    ]


async def _ask_all(
    settings: LlmJudgeConfig,
    asked: Sequence[list[dict[str, str]]],
    api_key: str | None,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> list[Reply]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # A local address is asked directly, whatever proxy the environment names, and none may send the texts elsewhere.
    http_client = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not settings.is_local)
    async with AsyncOpenAI(
        base_url=settings.base_url,
        api_key=api_key or "none",
        timeout=settings.timeout_s,
        max_retries=settings.max_retries,
        http_client=http_client,
    ) as client:
        room = asyncio.Semaphore(settings.concurrency)
        tasks = [asyncio.create_task(_ask(client, room, settings, messages, seed)) for messages in asked]
        done = 0

        def count(task: asyncio.Task[Reply]) -> None:
            nonlocal done
            done += not task.cancelled()
            on_progress(done, len(tasks))

        for task in tasks:
            task.add_done_callback(count)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=settings.max_seconds)
            for task in late:
                task.cancel()
        return [_reply(found) for found in await asyncio.gather(*tasks, return_exceptions=True)]


async def _ask(
    client: Any, room: asyncio.Semaphore, settings: LlmJudgeConfig, messages: list[dict[str, str]], seed: int
) -> Reply:
    from openai import OpenAIError

    ask = partial(client.chat.completions.create, model=settings.model, messages=messages, seed=seed)
    async with room:
        try:
            answer = await ask(temperature=0.0, max_tokens=settings.max_tokens)
        except OpenAIError as error:
            # Its text may quote the request.
            status = getattr(error, "status_code", None)
            return Reply(None, type(error).__name__ + (f" {status}" if status else ""))
    choices = getattr(answer, "choices", None)
    return Reply(choices[0].message.content or "") if choices else Reply(None, "no choices in the reply")


def _reply(found: Reply | BaseException) -> Reply:
    if isinstance(found, asyncio.CancelledError):
        return Reply(None, OUT_OF_TIME)
    if isinstance(found, BaseException):
        raise found
    return found
