import numpy as np
import pytest

from envs import observation as columns


@pytest.fixture
def observe():
    """Build a raw observation: instance columns by name (one value per instance), mask, request entries."""

    def build(mask=None, request=None, **instance_columns):
        values = list(instance_columns.values())
        num_instances = len(values[0]) if values else len(mask)
        instances = np.zeros((num_instances, len(columns.INSTANCE_FEATURES)), np.float32)
        for name, column in instance_columns.items():
            instances[:, getattr(columns, name.upper())] = column
        entries = np.zeros(len(columns.REQUEST_FEATURES), np.float32)
        entries[columns.SESSION_KEY] = -1
        for name, value in (request or {}).items():
            entries[getattr(columns, name.upper())] = value
        valid = np.ones(num_instances, np.int8) if mask is None else np.array(mask, np.int8)
        return {"instances": instances, "request": entries, "mask": valid}

    return build
