"""Attention over instances, held against PyTorch's own, and against what must hold for any fleet."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import multi_head_attention_forward

from agents.rl.attention import ArrayAttention, Attention
from agents.rl.network import ArrayScores, ScoreNetwork, shape_of

WIDTH, NUM_HEADS = 12, 3


@pytest.fixture(autouse=True)
def seeded():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


def test_it_is_the_attention_that_pytorch_has():
    attention = Attention(WIDTH, NUM_HEADS)
    rows, mask = torch.randn(5, 7, WIDTH), (torch.rand(5, 7) < 0.6).float()
    mask[:, 0] = 1
    # PyTorch holds the heads' weights side by side, transposed, and wants [num_instances, batch, width].
    projections = [
        weights.permute(0, 2, 1).reshape(WIDTH, WIDTH)
        for weights in (attention.query, attention.key, attention.value)
    ]
    by_pytorch, _ = multi_head_attention_forward(
        *[rows.transpose(0, 1)] * 3,
        embed_dim_to_check=WIDTH,
        num_heads=NUM_HEADS,
        in_proj_weight=torch.cat(projections),
        in_proj_bias=None,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out.weight,
        out_proj_bias=attention.out.bias,
        key_padding_mask=mask == 0,
    )
    torch.testing.assert_close(attention(rows, mask), by_pytorch.transpose(0, 1))
    valid = mask[0] == 1
    by_arrays = ArrayAttention(attention)(rows[0, valid].numpy())
    np.testing.assert_allclose(by_arrays, attention(rows, mask)[0, valid].detach(), rtol=1e-5, atol=1e-6)


def test_a_lone_instance_gets_its_own_answer():
    attention = Attention(WIDTH, NUM_HEADS)
    row = torch.randn(WIDTH)
    expected = attention.out((row @ attention.value).flatten())
    torch.testing.assert_close(attention(row[None, None], torch.ones(1, 1))[0, 0], expected)


@settings(deadline=None, max_examples=60)
@given(
    num_instances=st.integers(1, 12),
    num_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_scores_follow_any_permutation_and_heed_no_masked_instance(num_instances, num_heads, seed, data):
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ScoreNetwork(5, [8], [6], num_heads)
    order = data.draw(st.permutations(range(num_instances)))
    mask = torch.from_numpy(rng.random(num_instances) < 0.7).float()
    mask[rng.integers(num_instances)] = 1
    valid = mask == 1
    encoded = torch.from_numpy(rng.normal(size=(num_instances, 5)).astype(np.float32))
    scores = network(encoded[None], mask[None])[0]
    permuted = network(encoded[None, order], mask[None, order])[0]
    torch.testing.assert_close(permuted[valid[order]], scores[order][valid[order]], rtol=1e-4, atol=1e-5)

    other = torch.where(valid[:, None], encoded, 1e3 * torch.randn(encoded.shape))
    assert torch.equal(network(other[None], mask[None])[0, valid], scores[valid])
    alone = network(encoded[None, valid], mask[None, valid])[0]
    torch.testing.assert_close(alone, scores[valid], rtol=1e-4, atol=1e-5)
    by_arrays = ArrayScores(network)(encoded[valid].numpy())
    np.testing.assert_allclose(by_arrays, scores[valid].detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention_heads", [-1, 3, 1.0, True, float("nan")])
def test_heads_that_do_not_fit_are_refused(attention_heads):
    with pytest.raises(ValueError, match=f"attention_heads is {attention_heads}, it must be a whole number"):
        shape_of([32, 64], [8], attention_heads)
