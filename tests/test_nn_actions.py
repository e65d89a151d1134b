"""In which spaces Dreamers act, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from dreamlab.core.errors import UserError
from dreamlab.nn.actions import Bounded, Classes, actions_for


def test_choices_and_vectors_between_bounds():
    for space, kind, size in (
        (spaces.Discrete(4), Classes, 4),
        (spaces.MultiDiscrete([2, 3]), Classes, 5),
        (spaces.Box(-2, 1, (3,)), Bounded, 3),
    ):
        acts = actions_for(space)
        assert isinstance(acts, kind)
        assert acts.size == size


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), r"act between bounds.*give its action space finite ones"),
        (spaces.Box(np.float32([-1, 2]), np.float32([1, 2])), "act between bounds"),
        (spaces.Box(-1, 1, (2, 2)), r"this environment's actions are Box\(-1.0, 1.0, \(2, 2\), float32\)"),
        (spaces.MultiDiscrete([[2, 3], [2, 2]]), "choose one of n"),
        (spaces.Text(5), "choose one of n"),
    ],
)
def test_others_are_refused(space, words):
    with pytest.raises(UserError, match=words):
        actions_for(space)
