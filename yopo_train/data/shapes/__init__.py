"""The embedded question set: seeded pictures of coloured shapes and characters, with questions about them."""

from yopo_train.data.shapes.build import build
from yopo_train.data.shapes.questions import KINDS, Question, ask
from yopo_train.data.shapes.scene import Scene, Thing, draw, sample_scene

__all__ = ["KINDS", "Question", "Scene", "Thing", "ask", "build", "draw", "sample_scene"]
