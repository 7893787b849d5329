"""Arrays in shards come back as they were, and whatever else stands in their place is refused."""

import numpy as np
import pytest

from causvid.data.tar import from_npy, to_npy


def test_arrays_come_back_and_spoiled_headers_are_refused_in_one_line() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    data = to_npy(array)
    assert np.array_equal(from_npy(data), array)
    at = data.index(b"'shape'")
    for spoiled in (b"", data[:20], data.replace(b"(2, 3)", b"(2, 3("), data[:at] + b"(((" + data[at + 3 :]):
        with pytest.raises(ValueError, match="cannot be read") as error:
            from_npy(spoiled)
        assert "\n" not in str(error.value)
