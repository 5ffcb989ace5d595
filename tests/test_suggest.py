"""Suggestions: the near names, else all."""

from __future__ import annotations

import pytest

from graph.suggest import suggestion

pytestmark = pytest.mark.smoke


def test_suggestions() -> None:
    names = ("agmc", "gnn-rl", "amc")
    assert suggestion("agcm", names) == "did you mean agmc?"
    assert suggestion("GNN-RL", names) == "did you mean gnn-rl?"
    assert suggestion("zzz", iter(names)) == "one of agmc, gnn-rl, amc"
