"""What a person sees: paths and commands to copy whole, and foreign text as it is."""

from __future__ import annotations

import io

from rich.console import Console

from luthier.bars import Bars
from luthier.console_view import ConsoleView


def shown(width: int = 40) -> tuple[ConsoleView, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    return ConsoleView(console, Bars(console)), stream


def test_plain_text_is_neither_wrapped_nor_read_as_markup() -> None:
    view, stream = shown()
    text = "curl -d '[/INST] [bold]x :smile: " + "long " * 30 + "'"
    view.plain(text)
    assert stream.getvalue() == f"  {text}\n"


def test_a_stage_may_be_named_after_anything() -> None:
    view, stream = shown(200)
    with view.stage("model", "Preparing [/INST] in /data/[x]"):
        pass
    assert "Preparing [/INST] in /data/[x]" in stream.getvalue()
    assert "model" in view.timings
