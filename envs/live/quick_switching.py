"""Let a thread that waits for the interpreter have it soon, though another computes.

Python hands its lock over after 5 ms by default, and a token passes several hand-overs until it is stamped:
beside a policy that computes in plain Python, stamps came 25 ms late in the median; with 0.5 ms, 2 ms late.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL = 0.0005  # seconds

# The interpreter has one interval for all of its threads: these go with it.
_lock = threading.Lock()
_num_users = 0
_usual = 0.0


@contextmanager
def quick_switching() -> Iterator[None]:
    """Switch quickly in all threads, until nobody wants that any more."""
    global _num_users, _usual
    with _lock:
        if _num_users == 0:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, SWITCH_INTERVAL))
        _num_users += 1
    try:
        yield
    finally:
        with _lock:
            _num_users -= 1
            if _num_users == 0:
                sys.setswitchinterval(_usual)
