"""How much of the KV cache the requests under way hold, of which a shared prefix is held once.

What the router counts, the prompts of the requests that it sent there, counts a prefix as often as it is in
use. The instance knows better, as of the last scrape: what it says that it uses, and what was sent there
since. The lesser of the two is taken: an old scrape, after which much was sent, then tells nothing, and
neither can an instance seem fuller than by what was sent there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_KV_CACHE_TOKENS,
    NUM_TOKENS_SENT_SINCE_SCRAPE,
)


def held_tokens_of(instances: Any) -> Any:
    """Tokens held, ``[num_instances]``; ``instances`` are raw features and may be traced."""
    sent = instances[:, NUM_IN_FLIGHT_DECODE_TOKENS] + instances[:, NUM_IN_FLIGHT_PREFILL_TOKENS]
    said = instances[:, FRAC_KV_CACHE_USAGE] * instances[:, NUM_KV_CACHE_TOKENS]
    return np.minimum(sent, said + instances[:, NUM_TOKENS_SENT_SINCE_SCRAPE])
