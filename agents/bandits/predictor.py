"""Lodestar's predictor of one instance's reward: trained by torch, evaluated by NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.bandits.buffers import Samples
from agents.hyperparameters import check_counts, check_not_negative, check_positive, check_widths

MIN_TTFT_S = 1e-3
"""Shorter TTFTs are equal under the logarithm."""
ROUNDING = np.float32(1e-5)
"""An encoded feature that is so little out of range is within: elsewhere logarithms end in other digits."""
MIN_STD = 1e-6
"""Features that vary less are constant: they are centred and not scaled."""


class Predictor(NamedTuple):
    """A trained network; the normaliser is folded into its first layer."""

    weights: tuple[NDArray[np.float32], ...]
    """``[num_inputs, num_outputs]`` per layer."""
    biases: tuple[NDArray[np.float32], ...]
    low: NDArray[np.float32]
    """Least value of each feature in the training buffer, ``[num_features]``."""
    high: NDArray[np.float32]
    training_mse: float
    """Mean over the last epoch, dropout included."""
    validation_mse: float
    """On the held-out samples; NaN without any."""

    def hidden(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activations of the last hidden layer, ``[..., hidden_size]``."""
        values = rows
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = np.maximum(values @ weight + bias, 0)
        return values

    def head(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predicted target of the given last hidden activations, ``[...]``."""
        predicted: NDArray[np.float32] = (hidden @ self.weights[-1])[..., 0] + self.biases[-1]
        return predicted

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predicted target of each row, ``[...]``."""
        return self.head(self.hidden(rows))

    def out_of_range(self, rows: NDArray[np.float32]) -> bool:
        """Whether any feature of any row lies outside of what the training buffer held, and its margin."""
        return bool(self.outside(rows).any())

    def outside(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which features do, ``[..., num_features]``."""
        return (rows < self.low - ROUNDING) | (rows > self.high + ROUNDING)

    def state(self) -> dict[str, Any]:
        """Everything, in arrays and plain values."""
        return {
            "weights": [weight.copy() for weight in self.weights],
            "biases": [bias.copy() for bias in self.biases],
            "low": self.low.copy(),
            "high": self.high.copy(),
            "training_mse": self.training_mse,
            "validation_mse": self.validation_mse,
        }


def load_predictor(state: Mapping[str, Any], layer_sizes: Sequence[int]) -> Predictor:
    """The predictor whose ``state()`` is given. Raises ``ValueError`` where its layers are of other sizes."""
    weights = tuple(np.array(weight, np.float32, order="C") for weight in state["weights"])
    sizes = [*(weight.shape[0] for weight in weights), weights[-1].shape[1]]
    if sizes != list(layer_sizes):
        raise ValueError(f"state: the predictor's layers are {sizes}, they must be {list(layer_sizes)}")
    return Predictor(
        weights,
        tuple(np.array(bias, np.float32) for bias in state["biases"]),
        np.array(state["low"], np.float32),
        np.array(state["high"], np.float32),
        float(state["training_mse"]),
        float(state["validation_mse"]),
    )


@dataclass(frozen=True)
class Training:
    """How a predictor is trained: always from scratch. The defaults are those of Lodestar's authors.

    The number of torch's threads is left as it is. The network is too small to gain from several, and where
    other processes use the cores, threads that wait for each other make a round many times slower: programs
    should then run with ``OMP_NUM_THREADS=1``.
    """

    hidden_sizes: Sequence[int] = (128, 128, 128)
    dropout: float = 0.1
    """After each hidden layer but the last, as in the authors' code."""
    target: str = "seconds"
    """``seconds``: -TTFT. ``log``: -log TTFT, where relative errors count alike."""
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    learning_rate_decay: float = 0.95
    """Factor per epoch."""
    num_epochs: int = 20
    batch_size: int = 256
    max_gradient_norm: float = 1.0
    frac_validation: float = 0.2
    range_margin: float = 0.0
    """How far beyond the training samples a feature still counts as in range, in widths of their range.
    The authors' is 0; but of 25 features one or another is always a little beyond a young buffer."""

    def __post_init__(self) -> None:
        """Reject what cannot be trained."""
        if self.target not in ("seconds", "log"):
            raise ValueError(f"target is {self.target!r}, it must be 'seconds' or 'log'")
        for name in ("dropout", "frac_validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be from 0 to below 1")
        if not 0 < self.learning_rate_decay <= 1:
            raise ValueError(
                f"learning_rate_decay is {self.learning_rate_decay}, it must be above 0 and at most 1"
            )
        check_positive(learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        check_not_negative(weight_decay=self.weight_decay, range_margin=self.range_margin)
        check_counts(num_epochs=self.num_epochs, batch_size=self.batch_size)
        check_widths(hidden_sizes=self.hidden_sizes)

    def targets(self, ttft_s: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is predicted of a TTFT: the higher the better."""
        return -np.log(np.maximum(ttft_s, MIN_TTFT_S)) if self.target == "log" else -ttft_s

    def layer_sizes(self, num_features: int) -> list[int]:
        """Inputs, hidden layers, output."""
        return [num_features, *self.hidden_sizes, 1]

    def train(self, samples: Samples, seed: int) -> Predictor:
        """Train on ``samples``: the same bytes for the same seed, and torch's own generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._train(samples)

    def _train(self, samples: Samples) -> Predictor:
        mean = samples.rows.mean(0, dtype=np.float64)
        std = samples.rows.std(0, dtype=np.float64)
        std[std < MIN_STD] = 1.0
        inputs = torch.from_numpy(((samples.rows - mean) / std).astype(np.float32))
        targets = torch.from_numpy(self.targets(samples.ttft_s))
        order = torch.randperm(len(samples))
        num_validation = min(round(self.frac_validation * len(samples)), len(samples) - 1)
        held_out, trained = order[:num_validation], order[num_validation:]

        layers = _layers(self.layer_sizes(inputs.shape[1]))
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        optimizer = torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.learning_rate_decay)
        training_mse = float("nan")
        for _ in range(self.num_epochs):
            total = 0.0
            for batch in torch.split(trained[torch.randperm(len(trained))], self.batch_size):
                errors = _forward(layers, inputs[batch], self.dropout) - targets[batch]
                loss = errors.square().mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)
                optimizer.step()
                total += loss.item() * len(batch)
            scheduler.step()
            training_mse = total / len(trained)
        with torch.no_grad():
            errors = _forward(layers, inputs[held_out], 0.0) - targets[held_out]
            validation_mse = errors.square().mean().item() if num_validation else float("nan")

        weights = [layer.weight.detach().numpy().T.astype(np.float64) for layer in layers]
        biases = [layer.bias.detach().numpy().astype(np.float64) for layer in layers]
        weights[0] = weights[0] / std[:, None]
        biases[0] = biases[0] - mean @ weights[0]
        low, high = samples.rows.min(0), samples.rows.max(0)
        margin = np.float32(self.range_margin) * (high - low)
        return Predictor(
            tuple(np.ascontiguousarray(weight, np.float32) for weight in weights),
            tuple(bias.astype(np.float32) for bias in biases),
            low - margin,
            high + margin,
            training_mse,
            validation_mse,
        )


def _layers(sizes: Sequence[int]) -> list[torch.nn.Linear]:
    layers = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layer = torch.nn.Linear(num_inputs, num_outputs)
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        layers.append(layer)
    return layers


def _forward(layers: Sequence[torch.nn.Linear], values: torch.Tensor, dropout: float) -> torch.Tensor:
    for depth, layer in enumerate(layers[:-1]):
        values = torch.relu(layer(values))
        if dropout and depth < len(layers) - 2:
            values = torch.nn.functional.dropout(values, dropout)
    predicted: torch.Tensor = layers[-1](values)
    return predicted[:, 0]
