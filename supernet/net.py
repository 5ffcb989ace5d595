"""The supernet: a prioritized program, what can be chosen of it, and a module that runs any choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graph.adapter import Adapter
from graph.channels import Axes
from graph.errors import UsageError
from graph.groups import Kind
from graph.program import Program, ProgramModule, run
from models_zoo.data import DataSet
from prune.depth import turned_by
from prune.importance import sampled, score
from prune.masks import Masks
from prune.subject import Subject
from prune.verify import Verification, compared
from supernet.cutting import Cutter
from supernet.elastic import Elastic, ElasticConfig, Subnet
from supernet.layers import bypassing, find_layers
from supernet.priority import prioritize

_RECORDS = 512  # that salience is measured on
_RANDOM = 8  # inputs where there is no data


@dataclass(frozen=True)
class Supernet:
    """A network that holds smaller ones.

    Attributes:
        axes: of its program, whose units stand in the order of their salience.
        elastic: what can be chosen.
        origin: what it was made from, as JSON data.
        max_error: largest difference in float64 between the program and the one it was made from.
        notes: what the user should know.
        original: the program's tensors before the supernet was trained, where the network as it came is a
            teacher; None where it is not.
    """

    axes: Axes
    elastic: Elastic
    origin: Mapping[str, Any]
    max_error: float
    notes: tuple[str, ...] = ()
    original: Mapping[str, Tensor] | None = None

    @property
    def program(self) -> Program:
        """The whole network."""
        return self.axes.program

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts subnetworks out."""
        return Cutter(self.elastic)

    @property
    def teacher(self) -> ProgramModule:
        """Who teaches subnetworks: the network as it came, else the whole as it is."""
        tensors = self.program.tensors if self.original is None else dict(self.original)
        return ProgramModule(replace(self.program, tensors=tensors))

    def extract(self, subnet: Subnet) -> Program:
        """A subnetwork as a program that shares memory with this one."""
        return self.cutter(subnet).extracted(self.program.tensors)

    def proof(self, subnet: Subnet, extracted: Program) -> Verification:
        """That a subnetwork computes what the whole computes without what was not chosen."""
        masks = Masks(self.axes, self.elastic.keep(subnet)).overrides
        gone = [self.elastic.layers[i] for i in subnet.dropped]
        return compared(self.program, bypassing(gone, masks), extracted)

    def with_weights(self, tensors: Mapping[str, Tensor]) -> Supernet:
        """The same with other weights."""
        axes = replace(self.axes, program=replace(self.program, tensors=dict(tensors)))
        elastic = Elastic(axes, self.elastic.layers, self.elastic.salience, self.elastic.config)
        return replace(self, axes=axes, elastic=elastic)

    def of_kinds(self, kinds: tuple[Kind, ...]) -> Supernet:
        """The same with elastic widths of these kinds alone.

        Raises:
            UsageError: nothing else is elastic.
        """
        config = replace(self.elastic.config, kinds=kinds)
        elastic = Elastic(self.axes, self.elastic.layers, self.elastic.salience, config)
        return replace(self, elastic=elastic, origin={**self.origin, "elastic": asdict(config)})

    def told(self) -> dict[str, Any]:
        """What it offers, as JSON data."""
        cost = {n: self.elastic.cost(s) for n, s in
                (("largest", self.elastic.largest), ("smallest", self.elastic.smallest))}  # fmt: skip
        return {
            "layers": [b.name for b in self.elastic.layers],
            "least_layers": self.elastic.least_layers,
            "axes": [
                {"name": c.name, "kind": c.kind, "layer": c.layer, "kept": [list(k) for k in c.layouts]}
                for c in self.elastic.choices
            ],
            **{name: asdict(c) for name, c in cost.items()},
            "max_error": self.max_error,
        }


class ElasticModule(ProgramModule):
    """A supernet as a module: it runs, and trains, the subnetwork that is chosen at present.

    Attributes:
        subnet: the choice; the whole network at first.
    """

    def __init__(self, net: Supernet) -> None:
        super().__init__(net.program)
        self.elastic, self._cutter = net.elastic, net.cutter
        self.subnet = net.elastic.largest

    def forward(self, *inputs: Tensor) -> Any:
        """Run the present choice on inputs of the shapes that ``program.inputs`` names."""
        cut = self._cutter(self.subnet)
        return run(cut.program, cut.table(self._table()), inputs, training=self.training)


def make_supernet(
    subject: Subject,
    config: ElasticConfig,
    data: DataSet | None,
    *,
    origin: Mapping[str, Any],
    on_stage: Callable[[str], None] = lambda _: None,
) -> Supernet:
    """Make a supernet of a model.

    Channels and heads are ranked by what the loss loses with them to first order (``taylor``) on training
    data, without data by their magnitude; layers by how far they turn the stream.

    Args:
        subject: the model with its groups.
        config: which choices it offers.
        data: that salience is measured on.
        origin: what is told of where it comes from.
        on_stage: told what is done.

    Raises:
        UsageError: nothing of it is elastic, or it keeps running statistics.
        VerificationError: put in order, it computes something else.
    """
    if any(n.base == "batch_norm" for n in subject.program.nodes):
        raise UsageError(
            f"{subject.loaded.path} has batch norms, whose statistics differ from subnetwork to subnetwork",
            hint="supernets are for transformers; `prune compress` prunes this model",
        )
    if len(subject.program.inputs) > 1 and data is not None:
        raise UsageError("data goes with models of one input", hint="--data none")
    layers = find_layers(subject.program)
    Elastic(subject.axes, layers, [0.0] * len(layers), config)  # tells at once that nothing is elastic
    on_stage("ranking channels, heads and layers")
    criterion = "magnitude" if data is None else "taylor"
    scores = score(subject.axes, criterion, () if data is None else sampled(data, _RECORDS))  # type: ignore[arg-type]
    found = prioritize(subject.axes, scores, config.kinds)
    turned = turned_by(subject.program, layers, _records(subject.program, data)) if layers else []
    elastic = Elastic(found.axes, layers, turned, config)
    told = {**origin, "salience": criterion, "elastic": asdict(config), "layer_salience": turned}
    notes = [f"no elastic width of kind {kind}: {reason}" for kind, reason in elastic.missing.items()]
    if not layers:
        notes.append("no layer can be bypassed: only widths are elastic")
    return Supernet(found.axes, elastic, told, found.max_error, (*found.notes, *notes))


def _records(program: Program, data: DataSet | None) -> Sequence[Sequence[Tensor]]:
    """What layers are judged on."""
    if data is not None:
        return [(x,) for x, _ in sampled(data, _RECORDS)]
    with torch.random.fork_rng(devices=[]):
        return [program.random_inputs(_RANDOM if program.dynamic_batch else 1)]


def origin_of(subject: Subject, data: str | None) -> dict[str, Any]:
    """What a supernet remembers of the model that it is made of."""
    loaded = subject.loaded
    inner = loaded.module.inner if isinstance(loaded.module, Adapter) else loaded.module
    return {
        "model": loaded.path,
        "arch": loaded.arch,
        "named": loaded.inputs.named,
        "sha256": loaded.sha256,
        "data": data,
        "tensors": sorted(inner.state_dict()),
    }
