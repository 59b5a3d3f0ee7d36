"""Hyperparameter sweeps on Ray Tune: space, trial, tuner, leaderboard. The only user of ``ray.tune``."""

from __future__ import annotations

from luthier.tuning.leaderboard import leaderboard_table
from luthier.tuning.space import check_space
from luthier.tuning.tuner import tune, winning_config

__all__ = ["check_space", "leaderboard_table", "tune", "winning_config"]
