"""`import causvid` is quick, and finds every public name when it is used."""

import subprocess
import sys

import pytest

import causvid


def test_importing_the_package_imports_no_torch() -> None:
    code = "import causvid, sys; assert causvid.__version__ and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", causvid.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(causvid, name) is not None
    assert name in dir(causvid)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = causvid.Pipelin
