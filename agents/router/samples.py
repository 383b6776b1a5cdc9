"""What a router tells its trainer: encoded rows and the TTFTs that followed, in frames over a pipe.

A frame is the number of its samples in four bytes, big-endian, and then each sample as float32: the row and
its TTFT. Nothing else travels that way, so that nothing in it can be run.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from envs.observation import ENCODED_NAMES

NUM_FLOATS = len(ENCODED_NAMES) + 1
MAX_SAMPLES = 65_536
_ENDIAN = "<f4"


def frame(samples: NDArray[np.float32]) -> bytes:
    """Pack samples, ``[num_samples, NUM_FLOATS]``."""
    return len(samples).to_bytes(4) + samples.astype(_ENDIAN).tobytes()


def read_frame(pipe: BinaryIO) -> NDArray[np.float32] | None:
    """The samples of the next frame; None where the pipe has ended.

    Raises ``ValueError`` for what is no frame.
    """
    head = pipe.read(4)
    if len(head) < 4:
        return None
    num = int.from_bytes(head)
    if not 0 < num <= MAX_SAMPLES:
        raise ValueError(f"a frame of {num} samples, there must be 1 to {MAX_SAMPLES}")
    content = pipe.read(4 * NUM_FLOATS * num)
    if len(content) < 4 * NUM_FLOATS * num:
        return None
    return np.frombuffer(content, _ENDIAN).reshape(num, NUM_FLOATS).astype(np.float32)
