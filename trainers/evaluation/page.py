"""What every HTML report shares: the templates' environment, its filters, and inline pictures."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from luthier.trainers.evaluation.drawing import metric_name, to_svg

_TEMPLATES = Path(__file__).parent / "templates"


def page_environment(*templates: Path) -> Environment:
    """Where templates are looked up and what they can use; everything they insert is escaped.

    Args:
        templates: Directories to look in before the one that holds the shared head and style.
    """
    environment = Environment(
        loader=FileSystemLoader([*templates, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure_text,
        "seconds": seconds_text,
        "metric_name": metric_name,
        "p_value": p_value_text,
    }
    return environment


def svg_or_none(figure: Figure | None) -> Markup | None:
    """A figure as inline SVG; None stays None."""
    return None if figure is None else to_svg(figure)


def figure_text(value: float) -> str:
    """A number to three decimals, or to four digits where it is far from 1."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def p_value_text(value: float) -> str:
    """A p-value to three decimals, or that it is smaller."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds_text(value: float) -> str:
    """A duration for people."""
    if value < 1.0:
        return f"{value * 1000:.0f} ms"
    if value < 100.0:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
