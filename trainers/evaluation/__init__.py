"""Scores of the test split with intervals, and the report that shows them."""

from luthier.trainers.evaluation.plots import write_confusion_png
from luthier.trainers.evaluation.report import write_report
from luthier.trainers.evaluation.score import Prediction, score

__all__ = ["Prediction", "score", "write_confusion_png", "write_report"]
