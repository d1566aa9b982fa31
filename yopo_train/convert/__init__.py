"""Converters: checkpoint folders that only their own remote code could load, to the layout of ``transformers``."""

from .internvl2 import convert_internvl2
from .llava import convert_llava

__all__ = ["convert_internvl2", "convert_llava"]
