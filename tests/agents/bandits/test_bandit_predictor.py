import re

import numpy as np
import pytest
import torch

from agents.bandits import predictor as predictor_module
from agents.bandits.buffers import Samples
from agents.bandits.predictor import Training, load_predictor


def samples(num_samples=600):
    rng = np.random.default_rng(0)
    rows = rng.random((num_samples, 4)).astype(np.float32) * [1, 100, 0.01, 0] + [0, 500, 0, 3]
    return Samples(rows.astype(np.float32), (rows[:, 0] + 0.5).astype(np.float32))


def test_learns_and_says_how_well():
    training = Training(hidden_sizes=(32, 32), learning_rate=0.03, dropout=0.0, batch_size=128)
    data = samples()
    predictor = training.train(data, seed=1)
    error = predictor.predict(data.rows) + data.ttft_s
    assert np.mean(error**2) < 0.002
    assert predictor.validation_mse < 0.002
    assert predictor.training_mse < 0.002


def test_folded_normaliser_predicts_what_the_trained_network_does(monkeypatch):
    trained = []
    make_layers = predictor_module._layers
    monkeypatch.setattr(
        predictor_module, "_layers", lambda sizes: trained.append(make_layers(sizes)) or trained[-1]
    )
    data = samples()
    predictor = Training(hidden_sizes=(8, 8), num_epochs=2).train(data, seed=3)
    mean, std = data.rows.mean(0, dtype=np.float64), data.rows.std(0, dtype=np.float64)
    assert std[3] == 0  # a constant feature is centred only
    std[3] = 1.0
    inputs = torch.from_numpy(((data.rows - mean) / std).astype(np.float32))
    with torch.no_grad():
        first, second, last = trained[0]
        expected = last(torch.relu(second(torch.relu(first(inputs)))))[:, 0].numpy()
    np.testing.assert_allclose(predictor.predict(data.rows), expected, atol=1e-4)


def test_same_seed_same_bytes_and_no_trace_in_torch():
    training, data = Training(num_epochs=1), samples()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = training.train(data, seed=1)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(10)
    again = training.train(data, seed=1)
    other = training.train(data, seed=2)
    for one, two, three in zip(first.weights, again.weights, other.weights, strict=True):
        assert one.tobytes() == two.tobytes()
        assert one.tobytes() != three.tobytes()


def test_range_is_that_of_all_samples():
    data = samples()
    predictor = Training(hidden_sizes=(4,), num_epochs=1).train(data, seed=1)
    assert not predictor.out_of_range(data.rows)
    for column in range(4):
        for step in (-1, 1):
            beyond = data.rows[:1].copy()
            extreme = data.rows[:, column].max() if step > 0 else data.rows[:, column].min()
            beyond[0, column] = extreme + step * 1e-4
            assert predictor.out_of_range(beyond)
            beyond[0, column] = extreme + step * 1e-6  # as rounding may do
            assert not predictor.out_of_range(beyond)


def test_targets():
    ttft_s = np.array([0.0, 1.0, np.e], np.float32)
    np.testing.assert_allclose(Training().targets(ttft_s), -ttft_s)
    np.testing.assert_allclose(Training(target="log").targets(ttft_s), [-np.log(1e-3), 0, -1], atol=1e-6)


def test_two_samples_suffice():
    predictor = Training(hidden_sizes=(4,), num_epochs=1).train(samples(2), seed=0)
    assert np.isfinite(predictor.weights[0]).all()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", "minutes"),
        *(("hidden_sizes", sizes) for sizes in ([], [0], [64, -1], [2.5])),
        *(("dropout", value) for value in (-0.1, 1.0, 1.5, NAN)),
        *(("learning_rate", value) for value in (-1, 0.0, NAN, INF)),
        *(("weight_decay", value) for value in (-1, NAN, INF)),
        *(("learning_rate_decay", value) for value in (-1, 0, 1.5, NAN)),
        *(("num_epochs", value) for value in (0, -1)),
        *(("batch_size", value) for value in (0, -1)),
        *(("max_gradient_norm", value) for value in (-1, 0, NAN, INF)),
        *(("frac_validation", value) for value in (-0.1, 1.0, NAN)),
        *(("range_margin", value) for value in (-1, NAN, INF)),
    ],
)
def test_bad_arguments_are_refused_by_name_value_and_mend(name, value):
    shown = re.escape(str(value[-1] if value and isinstance(value, list) else value))
    with pytest.raises(ValueError, match=rf"^{name}(\[\d\])? is '?{shown}'?, it must be "):
        Training(**{name: value})


def test_arguments_at_their_bounds_train():
    training = Training(
        hidden_sizes=[1], dropout=0, learning_rate_decay=1, weight_decay=0, num_epochs=1, batch_size=1
    )
    assert np.isfinite(training.train(samples(8), seed=0).weights[0]).all()


def test_refuses_weights_of_other_layers():
    training = Training(hidden_sizes=(4,), num_epochs=1)
    state = training.train(samples(), seed=0).state()
    with pytest.raises(ValueError, match="layers"):
        load_predictor(state, [4, 5, 1])
