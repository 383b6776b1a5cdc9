"""Compiles what a request would else wait for."""

from __future__ import annotations

import numpy as np

from agents.router.asked import BLOCK_SIZE, Identity, asked
from agents.router.fleet import UNKNOWN
from envs.cluster import ClusterSnapshot, Request
from envs.prefix_index import PrefixIndex
from envs.router_view import RouterView


def warm() -> None:
    """Let one request pass by a view of its own; a minute on a new machine, nothing later."""
    body = b'{"prompt": "' + b"x" * 1000 + b'"}'
    wanted = asked("/v1/completions", body, {}, Identity())
    view = RouterView([UNKNOWN] * 2, 2, PrefixIndex(2, BLOCK_SIZE, capacity=16))
    view.join(0, UNKNOWN, is_new=True)
    view.scraped(_snapshot(), 0.5)
    request = Request(0, 0.0, wanted.num_prompt_tokens, 1, wanted.block_hashes)
    view.look(request, 1.0)
    view.sent(request, 0, 1.0)
    view.first_token(0, 1.1)
    view.completed(0, 2, 1.2)
    view.index.forget(0)


def _snapshot() -> ClusterSnapshot:
    counts, fractions = np.zeros(2, np.int64), np.zeros(2)
    return ClusterSnapshot(counts, counts, fractions, fractions, fractions, np.ones(2, np.bool_))
