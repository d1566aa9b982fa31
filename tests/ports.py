"""Ports for processes that meet over TCP."""

import itertools
import os

_count = itertools.count()


def own_port() -> int:
    """A port below those that the system gives away: one that it calls free may be another test's a moment later."""
    return 20_000 + (7 * os.getpid() + next(_count)) % 10_000
