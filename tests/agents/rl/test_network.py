import numpy as np
import pytest
import torch

from agents.rl.network import ArrayScores, ScoreNetwork, ValueNetwork

NUM_FEATURES = 5


@pytest.fixture(autouse=True)
def seeded():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(params=[0, 1, 3], ids=lambda num_heads: f"{num_heads}_heads")
def attention_heads(request):
    return request.param


@pytest.fixture
def network(attention_heads):
    return ScoreNetwork(NUM_FEATURES, [16, 12], [14, 9], attention_heads)


@pytest.fixture
def value(attention_heads):
    return ValueNetwork(NUM_FEATURES, [16, 12], [14], attention_heads)


def fleet(num_instances=4, batch=3):
    return torch.randn(batch, num_instances, NUM_FEATURES), torch.ones(batch, num_instances)


def test_scores_follow_a_permutation_and_the_value_does_not_notice_it(network, value):
    encoded, mask = fleet()
    mask[:, 1] = 0
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        network(encoded[:, order], mask[:, order])[mask[:, order] == 1],
        network(encoded, mask)[:, order][mask[:, order] == 1],
    )
    torch.testing.assert_close(value(encoded[:, order], mask[:, order]), value(encoded, mask))


def test_padded_rows_change_nothing_whatever_they_hold(network, value):
    encoded, mask = fleet()
    padded = torch.cat([encoded, 1e3 * torch.randn(3, 5, NUM_FEATURES)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(3, 5)], dim=1)
    torch.testing.assert_close(network(padded, padded_mask)[:, :4], network(encoded, mask))
    torch.testing.assert_close(value(padded, padded_mask), value(encoded, mask))


def test_a_score_depends_on_the_rest_of_the_fleet(network):
    encoded, mask = fleet()
    changed = encoded.clone()
    changed[:, 3] += 1
    assert not torch.allclose(network(changed, mask)[:, 0], network(encoded, mask)[:, 0])


def test_one_set_of_weights_serves_any_number_of_instances(network):
    for num_instances in (1, 2, 8, 40):
        encoded, mask = fleet(num_instances)
        assert network(encoded, mask).shape == mask.shape


def test_an_empty_fleet_has_finite_values(network, value):
    encoded, mask = fleet()
    assert torch.isfinite(network(encoded, 0 * mask)).all()
    assert torch.isfinite(value(encoded, 0 * mask)).all()


def test_arrays_score_as_the_network_does(network):
    encoded, mask = fleet(num_instances=6)
    mask[:, [1, 4]] = 0
    valid = mask[0] == 1
    expected = network(encoded, mask).detach().numpy()
    for batch in range(3):
        np.testing.assert_allclose(
            ArrayScores(network)(encoded[batch, valid].numpy()), expected[batch, valid], rtol=1e-5, atol=1e-6
        )


def test_the_shape_is_read_off_the_weights(network, attention_heads):
    encoded, mask = fleet()
    again = ScoreNetwork.from_state(network.state_dict())
    assert torch.equal(again(encoded, mask), network(encoded, mask))
    several = ScoreNetwork(NUM_FEATURES, [16, 12], [14, 9], attention_heads, num_scores=5)
    assert several(encoded, mask).shape == (3, 4, 5)
    again = ScoreNetwork.from_state(several.state_dict())
    assert torch.equal(again(encoded, mask), several(encoded, mask))


def test_other_weights_are_refused(value):
    with pytest.raises(ValueError, match="not the weights of a ScoreNetwork"):
        ScoreNetwork.from_state({"weight": torch.zeros(1)})
    with pytest.raises((ValueError, RuntimeError)):
        ScoreNetwork.from_state(value.state_dict())


def test_gradients_do_not_flow_from_masked_rows(network):
    encoded, mask = fleet()
    mask[:, 2] = 0
    encoded.requires_grad_()
    network(encoded, mask)[mask == 1].sum().backward()
    assert (encoded.grad[:, 2] == 0).all()
    assert (encoded.grad[:, 0] != 0).any()
