"""What a live cluster may not leave behind: threads and sockets."""

import gc
import os
import threading
import time
from contextlib import contextmanager, suppress


def num_sockets():
    """Open sockets of this process."""
    num = 0
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            num += os.readlink(f"/proc/self/fd/{entry}").startswith("socket:")
    return num


def live_threads():
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("routegym", "asyncio"))
    ]


def soon(holds):
    """Whether something comes to hold within a minute: others use the machine too."""
    deadline = time.monotonic() + 60.0
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


@contextmanager
def nothing_left():
    """Check that there are as many threads and sockets afterwards as before, or soon are."""
    gc.collect()
    before = num_sockets()
    yield
    gc.collect()
    assert soon(lambda: not live_threads())
    assert soon(lambda: num_sockets() <= before)
