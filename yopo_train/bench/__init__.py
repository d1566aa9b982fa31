"""Speed and memory of a pruned model beside the stock one.

How is it timed? ``timer.py``. What is measured? ``measures.py``. On what? ``models.py``.
"""

from .device import device_name
from .measures import Options, compare

__all__ = ["Options", "compare", "device_name"]
