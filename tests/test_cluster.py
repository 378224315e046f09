"""What can never be placed is refused instead of waited for."""

from __future__ import annotations

import pytest

from rayonale import cluster


def test_more_than_the_machine_has_is_refused(ray_session: None) -> None:
    cluster.require("training workers", 2, {"CPU": 1})
    with pytest.raises(
        ValueError, match=r"training workers do not fit this machine: 3 x 1 CPU asked for, 2 there"
    ):
        cluster.require("training workers", 3, {"CPU": 1})
    with pytest.raises(ValueError, match="1 x 1 GPU asked for, 0 there"):
        cluster.require("training workers", 1, {"GPU": 1})
