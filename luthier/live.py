"""The stages of a live endpoint: brought up, asked, held, each importing what it needs when it runs. Ray must be
initialised.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.errors import ModelError
from luthier.view import View

if TYPE_CHECKING:
    from luthier.judging import Judgement
    from luthier.registry import ModelVersion
    from luthier.serving import Base, Endpoint


def prepare_embedder(cfg: RunConfig, view: View) -> Path | None:
    """The base model's directory where it lies on this machine and embeds texts, so that it can be served as it is.

    Nothing is fetched: most models embed nothing, and are large.
    """
    from luthier.serving.kinds import task_of
    from luthier.trainers.base_model import find_base

    try:
        base_model_dir = find_base(cfg.model, offline=True)
    except ModelError:
        return None
    if task_of(base_model_dir) != "embed":
        return None
    view.plain(f"{cfg.model.model_name_or_path} embeds texts; it is served from {base_model_dir}")
    return base_model_dir


def go_live(
    cfg: RunConfig, base_model_dir: Path, refs: Sequence[str], view: View, other_bases: Sequence[Base] = ()
) -> Endpoint:
    """Start the endpoint.

    Args:
        cfg: The configuration.
        base_model_dir: The config's base model.
        refs: Registered models to serve.
        view: Shows what happens.
        other_bases: Base models of those that are adapters of another one.

    Raises:
        ServingError: It did not start.
    """
    from luthier.serving import deploy

    return _bring(deploy, "Starting the endpoint", cfg, base_model_dir, refs, view, other_bases)


def roll_out(
    cfg: RunConfig, base_model_dir: Path, refs: Sequence[str], view: View, other_bases: Sequence[Base] = ()
) -> Endpoint:
    """Start the endpoint, or change the one that runs on the cluster; arguments as of :func:`go_live`.

    Raises:
        ServingError: It did not start; a running one is what it was before.
    """
    from luthier.serving import is_up, roll_out

    if not is_up():
        return go_live(cfg, base_model_dir, refs, view, other_bases)
    return _bring(roll_out, "Changing the running endpoint", cfg, base_model_dir, refs, view, other_bases)


def _bring(
    how: Callable[..., Endpoint],
    told: str,
    cfg: RunConfig,
    base_model_dir: Path,
    refs: Sequence[str],
    view: View,
    other_bases: Sequence[Base],
) -> Endpoint:
    from luthier.trainers.base_model import base_digest

    with view.stage("serve", told):
        digest = base_digest(base_model_dir)
        endpoint = how(cfg, base_model_dir=base_model_dir, refs=refs, base_digest=digest, other_bases=other_bases)
        view.plain(f"{endpoint.base_url} serves {', '.join(endpoint.models)}")
    return endpoint


def ask_once(
    cfg: RunConfig, endpoint: Endpoint, version: ModelVersion, judgement: Judgement, view: View
) -> dict[str, Any]:
    """One real request with the openai client: the first test row, as the trained model was asked it.

    Returns:
        The ``answer`` and its times, in seconds.
    """
    from luthier.serving import ask, classify

    row, first = judgement.rows[0], judgement.scored["tuned"][0]
    key = os.environ[cfg.serve.api_key_env]
    with view.stage("ask", "Asking the endpoint"):
        view.plain(f"asked    {row['text']}")
        began = time.monotonic()
        if first.classified is not None:
            (scores,) = classify(endpoint, version.ref, [first.classified.text], key, cut_to=-1)
            label = max(scores, key=scores.__getitem__)
            found: dict[str, Any] = {"answer": f"{label} ({scores[label]:.3f})", "total_s": time.monotonic() - began}
            took = "answered"
        else:
            reply = ask(endpoint, version.ref, first.answer.messages, key, cfg.evaluate.max_new_tokens)
            found = {"answer": reply.text, "first_token_s": reply.first_token_s, "total_s": reply.total_s}
            took = f"first token after {reply.first_token_s * 1000:.0f} ms, all"
        view.plain(f"answered {found['answer']}   expected {row['label']}")
        view.note(f"{took} after {found['total_s'] * 1000:.0f} ms")
    return found


def warm_up(cfg: RunConfig, endpoint: Endpoint, view: View) -> None:
    """Ask every served name for as little as it can be asked for: nothing is announced that can't answer, and no user waits
    for a load.

    Raises:
        ServingError: A model does not answer.
    """
    from luthier.serving import greet

    with view.stage("warm-up", f"Asking {len(endpoint.models)} served names once"):
        for name in endpoint.models:
            greet(endpoint, name, os.environ[cfg.serve.api_key_env])


def hold(view: View, curl: str) -> None:
    """Keep the endpoint up until the process is told to stop, by Ctrl-C or as service managers do it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    view.note("[bold]live until Ctrl-C[/]; try:")
    view.plain(curl)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        view.note("stopping")


def curl_line(cfg: RunConfig, endpoint: Endpoint, model: str, key_file: Path | None) -> str:
    """A request to try from another terminal; the key stays where it is."""
    key = f"$(cat {key_file})" if key_file else f"${cfg.serve.api_key_env}"
    asked = {
        "generate": ("chat/completions", '"messages": [{"role": "user", "content": "..."}]'),
        "classify": ("classify", '"input": "..."'),
        "embed": ("embeddings", '"input": "..."'),
    }
    path, what = asked[endpoint.tasks[model]]
    body = f'{{"model": "{model}", {what}}}'
    return (
        f'curl {endpoint.base_url}/{path} -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
