"""What a given model can lose: statistics of a few samples, and the planner that turns them into a plan."""

from yopo_train.calibration.channel_score import ChannelScore
from yopo_train.calibration.head_ratio import HeadRatio
from yopo_train.calibration.module import CalibrationModule, calibrate
from yopo_train.calibration.planner import PlanConfig, make_plan
from yopo_train.calibration.scores import Scores

__all__ = ["CalibrationModule", "ChannelScore", "HeadRatio", "PlanConfig", "Scores", "calibrate", "make_plan"]
