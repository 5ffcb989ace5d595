"""Expressible: which kinds of widths a configuration of transformers can say, found by trying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graph.groups import Kind
from supernet.elastic import Subnet
from supernet.net import Supernet
from supernet.stock import NotStock, stock_model


def inexpressible(net: Supernet, settings: Mapping[str, Any]) -> dict[Kind, str]:
    """Kinds of widths that the configuration cannot say, with the reason; each is tried alone, at its least.

    Args:
        net: the supernet.
        settings: the configuration of the whole.
    """
    found: dict[Kind, str] = {}
    for kind in dict.fromkeys(c.kind for c in net.elastic.choices):
        subnet = Subnet(tuple(0 if c.kind == kind else len(c.layouts) - 1 for c in net.elastic.choices))
        try:
            stock_model(net, subnet, net.extract(subnet), settings)
        except NotStock as err:
            found[kind] = str(err)
    return found


def made_expressible(net: Supernet, settings: Mapping[str, Any], *, asked: bool) -> Supernet:
    """The supernet with a note on each kind of width that would end in a folder of our own format.

    Args:
        net: the supernet.
        settings: the configuration of the whole.
        asked: the user named the kinds: they stay. Otherwise these kinds are left out.

    Raises:
        UsageError: nothing else is elastic.
    """
    reasons = inexpressible(net, settings)
    if not reasons:
        return net
    if asked:
        told = [
            f"subnetworks with fewer units of kind {kind} alone are written in prune's format, not as "
            f"checkpoints of transformers: {reason}"
            for kind, reason in reasons.items()
        ]
    else:
        left = tuple(k for k in net.elastic.config.kinds if k not in reasons)
        net = net.of_kinds(left)
        all_kinds = ",".join((*left, *reasons))
        told = [
            f"kind {kind} is left out: {reason}; --kinds {all_kinds} takes it, with results in prune's format"
            for kind, reason in reasons.items()
        ]
    return replace(net, notes=(*net.notes, *told))
