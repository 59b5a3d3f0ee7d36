"""Scores of the test split with intervals, and the report that shows them."""

from luthier.trainers.evaluation.plots import write_confusion_png
from luthier.trainers.evaluation.predictions import Prediction
from luthier.trainers.evaluation.report import render_report
from luthier.trainers.evaluation.score import score

__all__ = ["Prediction", "render_report", "score", "write_confusion_png"]
