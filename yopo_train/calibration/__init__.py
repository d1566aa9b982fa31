"""What a given model can lose: statistics of a few samples, and the planner that turns them into a plan."""

from yopo_train.calibration.channel_score import ChannelScore
from yopo_train.calibration.head_ratio import HeadRatio
from yopo_train.calibration.module import CalibrationModule, calibrate
from yopo_train.calibration.neighbor_mass import NeighborMass
from yopo_train.calibration.plan_config import PlanConfig
from yopo_train.calibration.planner import make_plan
from yopo_train.calibration.scores import Scores

__all__ = [
    "CalibrationModule",
    "ChannelScore",
    "HeadRatio",
    "NeighborMass",
    "PlanConfig",
    "Scores",
    "calibrate",
    "make_plan",
]
