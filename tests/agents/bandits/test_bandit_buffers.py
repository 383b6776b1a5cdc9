import numpy as np
import pytest

from agents.bandits.buffers import FifoBuffer, Samples, gradient_coreset, load_samples


def row(value):
    return np.full(2, value, np.float32)


def test_fifo_keeps_the_recent_and_hands_out_the_evicted_once():
    fifo = FifoBuffer(3, 2)
    for value in range(5):
        fifo.add(row(value), value / 10)
    np.testing.assert_array_equal(fifo.samples().rows[:, 0], [2, 3, 4])
    np.testing.assert_allclose(fifo.samples().ttft_s, [0.2, 0.3, 0.4])
    np.testing.assert_array_equal(fifo.take_evicted().rows[:, 0], [0, 1])
    assert len(fifo.take_evicted()) == 0
    fifo.add(row(5), 0.5)
    np.testing.assert_array_equal(fifo.evicted().rows[:, 0], [2])


@pytest.mark.parametrize("num_added", [0, 2, 3, 4, 7])
def test_fifo_filled_goes_on_alike(num_added):
    fifo, other = FifoBuffer(3, 2), FifoBuffer(3, 2)
    for value in range(num_added):
        fifo.add(row(value), value)
    other.fill(fifo.samples(), fifo.evicted())
    for value in range(10, 15):
        fifo.add(row(value), value)
        other.add(row(value), value)
        np.testing.assert_array_equal(fifo.samples().rows, other.samples().rows)
        np.testing.assert_array_equal(fifo.evicted().rows, other.evicted().rows)


def test_coreset_by_hand():
    # Directions 0, 1, 46, 90 degrees; the second is the longest gradient: it is first, then the farthest.
    angles = np.radians([0, 1, 46, 90])
    activations = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    residuals = np.array([1, -5, 1, 1], np.float32)
    np.testing.assert_array_equal(gradient_coreset(activations, residuals, 1), [1])
    np.testing.assert_array_equal(gradient_coreset(activations, residuals, 2), [1, 3])
    np.testing.assert_array_equal(gradient_coreset(activations, residuals, 3), [1, 2, 3])
    np.testing.assert_array_equal(gradient_coreset(activations, residuals, 4), [0, 1, 2, 3])


def test_coreset_keeps_the_rare_direction():
    rng = np.random.default_rng(0)
    activations = np.zeros((500, 16), np.float32)
    activations[:, 0] = 1 + rng.random(500)
    activations[:, 1] = 0.05 * rng.random(500)
    activations[137] = 0
    activations[137, 7] = 0.01
    chosen = gradient_coreset(activations, np.ones(500, np.float32), 20)
    assert 137 in chosen
    assert len(set(chosen)) == 20


def test_coreset_of_silent_units():
    chosen = gradient_coreset(np.zeros((5, 3), np.float32), np.zeros(5, np.float32), 3)
    assert len(set(chosen)) == 3


def test_refuses_samples_that_do_not_fit():
    state = Samples(np.zeros((4, 2), np.float32), np.zeros(4, np.float32)).state()
    assert len(load_samples(state, "fifo", 2, 4)) == 4
    with pytest.raises(ValueError, match="fifo"):
        load_samples(state, "fifo", 2, 3)
    with pytest.raises(ValueError, match="fifo"):
        load_samples(state, "fifo", 3, 4)
