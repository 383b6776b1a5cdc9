import numpy as np
import pytest

from envs import observation as columns
from envs.observation import (
    ENCODED_NAMES,
    INSTANCE_FEATURES,
    REQUEST_FEATURES,
    SCHEMA_HASH,
    decode,
    encode,
    observation_space,
)


def raw(num_instances=2):
    instances = np.zeros((num_instances, len(INSTANCE_FEATURES)), np.float32)
    request = np.zeros(len(REQUEST_FEATURES), np.float32)
    return instances, request, np.ones(num_instances, np.int8)


def test_constants_are_the_tables_columns():
    for features in (INSTANCE_FEATURES, REQUEST_FEATURES):
        for index, feature in enumerate(features):
            assert getattr(columns, feature.name.upper()) == index


def test_table_is_sound():
    for feature in (*INSTANCE_FEATURES, *REQUEST_FEATURES):
        assert feature.low < feature.high
        assert feature.scale > 0
        assert feature.transform in ("linear", "log1p", "key")
        assert feature.staleness in ("scraped", "router", "profile", "request")
        assert feature.transform != "log1p" or feature.low >= 0


def test_schema_hash_changes_only_with_the_table():
    # A changed table orphans every policy trained on the old one: change this number knowingly.
    assert SCHEMA_HASH == "d535b9613cab659d"


def test_encoding_by_hand():
    instances, request, mask = raw()
    instances[0, columns.NUM_WAITING] = 3  # log1p, scale 1
    instances[0, columns.NUM_UNCACHED_TOKENS] = 2048  # log1p, scale 1024
    instances[0, columns.FRAC_KV_CACHE_USAGE] = 0.25  # linear
    request[columns.NUM_PROMPT_TOKENS] = 1024
    request[columns.SESSION_KEY] = 77
    encoded = encode(instances, request, mask)
    assert encoded.shape == (2, len(ENCODED_NAMES))
    assert encoded.dtype == np.float32
    assert encoded[0, ENCODED_NAMES.index("num_waiting")] == pytest.approx(np.log(4))
    assert encoded[0, ENCODED_NAMES.index("num_uncached_tokens")] == pytest.approx(np.log(3))
    assert encoded[0, ENCODED_NAMES.index("frac_kv_cache_usage")] == 0.25
    assert encoded[:, ENCODED_NAMES.index("num_prompt_tokens")] == pytest.approx(np.log(2))
    assert "session_key" not in ENCODED_NAMES


def test_masked_rows_are_zero_and_batches_encode_alike():
    instances, request, mask = raw(3)
    rng = np.random.default_rng(0)
    instances[:] = rng.random(instances.shape)
    request[:] = rng.random(request.shape)
    mask[1] = 0
    encoded = encode(instances, request, mask)
    assert not encoded[1].any()
    batch = encode(np.stack([instances, instances]), np.stack([request, request]), np.stack([mask, mask]))
    np.testing.assert_array_equal(batch, np.stack([encoded, encoded]))


def test_decoding_gives_the_physical_values_back():
    instances, request, mask = raw()
    rng = np.random.default_rng(0)
    instances[:] = 10 ** rng.uniform(0, 6, instances.shape)
    request[:] = 10 ** rng.uniform(0, 6, request.shape)
    values = decode(encode(instances, request, mask))
    np.testing.assert_allclose(values[:, : len(INSTANCE_FEATURES)], instances, rtol=2e-5)
    np.testing.assert_allclose(values[0, ENCODED_NAMES.index("num_prompt_tokens")], request[0], rtol=2e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_value_that_is_not_finite_is_named(value, masked):
    instances, request, mask = raw()
    mask[1] = not masked
    instances[1, columns.RECENT_TTFT_S] = value
    with pytest.raises(ValueError, match=r"recent_ttft_s of instance 1 is -?(nan|inf)"):
        encode(instances, request, mask)
    instances[1, columns.RECENT_TTFT_S] = 0
    request[columns.TURN] = value
    with pytest.raises(ValueError, match=r"turn is -?(nan|inf)"):
        encode(instances, request, mask)


def test_space_refuses_no_instances():
    with pytest.raises(ValueError, match="max_instances is 0"):
        observation_space(0)
