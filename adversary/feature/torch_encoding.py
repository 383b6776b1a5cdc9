"""``envs.observation.encode`` in torch, for gradients with respect to raw features."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

_ENCODED_REQUEST = [place for place, feature in enumerate(REQUEST_FEATURES) if feature.transform != "key"]
_ENCODED = [*INSTANCE_FEATURES, *(REQUEST_FEATURES[place] for place in _ENCODED_REQUEST)]
_SCALE = torch.tensor([feature.scale for feature in _ENCODED], dtype=torch.float32)
_IS_LOG = torch.tensor([feature.transform == "log1p" for feature in _ENCODED])


def encode(instances: Tensor, request: Tensor, mask: Tensor) -> Tensor:
    """Turn raw observations into what a network reads.

    Args:
        instances: float32 ``[batch, num_instances, num_instance_features]``.
        request: float32 ``[num_request_features]``, the same in all of the batch.
        mask: ``[num_instances]``.

    Returns:
        float32 ``[batch, num_instances, num_encoded]``; rows of masked instances are 0.
    """
    shared = request[_ENCODED_REQUEST].expand(*instances.shape[:-1], -1)
    scaled = torch.cat([instances, shared], dim=-1) / _SCALE
    encoded = torch.where(_IS_LOG, torch.log1p(scaled.clamp(min=0.0)), scaled)
    return encoded * mask.to(encoded.dtype).unsqueeze(-1)
