"""Fixtures that the tests of extraction share."""

import pytest

from hiprobe.demo.model import build_random_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A small random Qwen2.5-VL; nobody changes its folder."""
    return build_random_model(tmp_path_factory.mktemp("model") / "qwen")
