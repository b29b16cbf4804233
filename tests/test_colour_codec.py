"""The colour map's codec: sizes, budgets, hostile bytes, the same map everywhere."""

import numpy as np
import pytest
from skimage import data

import colour_codec


@pytest.mark.parametrize("budget", [8, 20, 60, 150, 400])
def test_round_trip_within_the_budget(budget):
    image = data.astronaut()[:256, :384]
    payload = colour_codec.encode(image, budget)
    assert len(payload) <= budget
    assert colour_codec.decode(payload, 256, 384).shape == (32, 48, 3)
