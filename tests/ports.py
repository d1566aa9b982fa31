"""Ports for processes that meet over TCP."""

import itertools
import os
import socket

_count = itertools.count()


def own_port() -> int:
    """A port below those that the system gives away: one that it calls free may be another test's a moment later.

    Processes with neighbouring numbers, which may want dozens each, begin far from each other.
    """
    while True:
        port = 20_000 + (211 * os.getpid() + next(_count)) % 10_000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):  # nobody listens
                return port
