"""Conversion: the graph that ``torch.export`` returns, written as the nodes of a program."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graph.blame import unsupported
from graph.canonical import canonical
from graph.errors import CaptureError
from graph.exported import (
    PRODUCTS,
    SQUEEZES,
    base_name,
    changes,
    check_types,
    module_path,
    op_name,
    squeezed,
    wanted,
)
from graph.folding import without_dead
from graph.mutation import CannotTrack, Memory, functional
from graph.program import INPUT, TENSOR, InputSpec, Node, Program, Ref

# Wrappers around a part of the graph that change nothing in evaluation: where the part and its inputs stand.
_WRAPPERS = {
    "wrap": (0, 1),
    "wrap_with_set_grad_enabled": (1, 2),
    "wrap_with_autocast": (4, 5),
    "wrap_activation_checkpoint": (0, 1),
    "tag_activation_checkpoint": (0, 1),
    "invoke_subgraph": (0, 2),
    "strict_mode": (0, 1),
}


@dataclass(frozen=True)
class Converted:
    """A program with what only the exporter knows about its tensors.

    Attributes:
        program: not folded yet.
        fixed: tensors that values may be computed from at capture.
        kept: tensors of the model's state dict.
        through_views: whether a change of a view was written back to other tensors.
    """

    program: Program
    fixed: frozenset[str]
    kept: frozenset[str]
    through_views: bool


def convert(
    exported: ExportedProgram,
    example: Sequence[Tensor],
    *,
    prefix: str = "",
    names: Sequence[str] | None = None,
    dynamic: bool = True,
    notes: tuple[str, ...] = (),
) -> Converted:
    """Write an exported graph as a program.

    Args:
        exported: by ``torch.export.export``, not decomposed.
        example: the inputs that the user gave.
        prefix: taken off the names of parameters and modules.
        names: of the inputs; the exporter's own when left out.
        dynamic: whether the batch is free.
        notes: of the program.

    Raises:
        CaptureError: the graph holds something that a program cannot.
        CannotTrack: an in-place change has no form without memory.
    """
    return _Converter(exported, example, prefix, names, dynamic, notes).run()


class _Converter:
    """Walks an exported graph once and writes the program's nodes."""

    def __init__(
        self,
        exported: ExportedProgram,
        example: Sequence[Tensor],
        prefix: str,
        names: Sequence[str] | None,
        dynamic: bool,
        notes: tuple[str, ...],
    ) -> None:
        self.exported = exported
        self.example = example
        self.prefix = prefix
        self.names = names
        self.dynamic = dynamic
        self.notes = notes
        self.nodes: list[Node] = []
        self.taken: set[str] = {n.name for n in exported.graph.nodes}
        self.tensors: dict[str, Tensor] = {}
        self.by_storage: dict[int, list[tuple[str, str]]] = {}
        self.inputs: list[InputSpec] = []
        self.trainable: set[str] = set()
        self.fixed: set[str] = set()
        self.kept: set[str] = set()
        self.fake: dict[str, Any] = {}
        self.module = ""
        self.devices = {t.device.type for t in example}
        self.memory = Memory(self._emit, self.fake) if changes(exported.graph_module) else None

    def run(self) -> Converted:
        specs = {s.arg.name: s for s in self.exported.graph_signature.input_specs if hasattr(s.arg, "name")}
        env: dict[torch.fx.Node, Any] = {}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                env[node] = self._placeholder(node, specs[node.name])
        results = self._graph(self.exported.graph_module, env, "")
        values = [v for v in results if isinstance(v, Ref)]
        if not values:
            raise CaptureError(
                "the model returns no tensor", hint="wrap it in a module that returns the tensor of interest"
            )
        present = [self._present(v) for v in values]
        output: Any = present[0] if len(present) == 1 else tuple(present)
        nodes = tuple(without_dead(canonical(self.nodes, output), output, frozenset(self.kept)))
        used = {str(n.args[0]) for n in nodes if n.op == TENSOR}
        program = Program(
            nodes,
            tuple(self.inputs),
            output,
            {k: t for k, t in self.tensors.items() if k in used},
            frozenset(self.trainable),
            self.dynamic,
            (*self.notes, *self._state_notes()),
        )
        through_views = self.memory is not None and self.memory.through_views
        return Converted(program, frozenset(self.fixed), frozenset(self.kept), through_views)

    def _state_notes(self) -> tuple[str, ...]:
        if self.memory is None:
            return ()
        table = {n.name: str(n.args[0]) for n in self.nodes if n.op == TENSOR}
        changed = sorted(table[w] for w in self.memory.written if w in table and table[w] in self.kept)
        return tuple(
            f"forward changes the buffer {name!r}; the program starts from its present value each time"
            for name in changed
        )

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                return value
            position = len(self.inputs)
            name = self._input_name(node, position)
            given = self.example[position]
            low, high = (0, 2)
            if not given.is_floating_point() and given.dtype is not torch.bool and given.numel():
                low, high = int(given.min()), int(given.max()) + 1
            dtype = str(value.dtype).removeprefix("torch.")
            self.inputs.append(InputSpec(name, tuple(given.shape), dtype, low, high))
            self.fake[name] = value
            return self._define(Node(name, INPUT), given)
        name = str(spec.target)
        found = self.exported.state_dict.get(name)
        lifted = spec.kind is InputKind.CONSTANT_TENSOR or found is None
        tensor = (self.exported.constants[name] if lifted else found).detach()
        name = name.removeprefix(self.prefix)
        parameter = spec.kind is InputKind.PARAMETER
        persistent = not lifted and getattr(spec, "persistent", True) is not False
        if not node.users and not parameter and not persistent:
            return None
        for first, holder in self.by_storage.get(_address(tensor), ()):
            # Tied weights reach the graph under two names; they stay one tensor.
            known = self.tensors[first]
            if known.shape == tensor.shape and known.stride() == tensor.stride():
                return Ref(holder)
        if parameter:
            self.trainable.add(name)
        if parameter or persistent:
            self.kept.add(name)
        # Numbers in the checkpoint belong to layers (frozen batch norm) and are sliced with them.
        if not parameter and not (persistent and tensor.is_floating_point()):
            self.fixed.add(name)
        self.fake[node.name] = node.meta.get("val")
        return self._table(node.name, name, tensor)

    def _input_name(self, node: torch.fx.Node, position: int) -> str:
        if self.names is None or position >= len(self.names):
            return node.name
        wanted = self.names[position]
        return node.name if wanted == node.name else self._free(wanted)

    def _table(self, node: str, name: str, tensor: Tensor) -> Ref:
        self.tensors[name] = tensor
        self.by_storage.setdefault(_address(tensor), []).append((name, node))
        return self._define(Node(node, TENSOR, (name,)), tensor)

    def _graph(self, graph: torch.fx.GraphModule, env: dict[torch.fx.Node, Any], scope: str) -> list[Any]:
        """Write the operators of a graph; returns what it returns, flat."""
        alive = wanted(graph)
        for node in graph.graph.nodes:
            if node.op == "output":
                found = self._value(node.args[0], env)
                return list(found) if isinstance(found, (tuple, list)) else [found]
            if node not in alive or node.op == "placeholder":
                continue
            if node.op == "get_attr":
                env[node] = self._attribute(graph, node, scope)
            elif node.op == "call_function":
                self.module = module_path(node, self.prefix) or self.module
                env[node] = self._call(graph, node, env, scope)
            else:
                raise unsupported(f"the captured graph calls {node.target!r} as {node.op}", node)
        raise AssertionError("a graph without an output")

    def _attribute(self, graph: torch.fx.GraphModule, node: torch.fx.Node, scope: str) -> Any:
        found: Any = graph
        for part in str(node.target).split("."):
            found = getattr(found, part)
        if not isinstance(found, Tensor):
            return found  # a part of the graph, which a wrapper takes
        name = self._free(f"{scope}{node.name}")
        self.fixed.add(name)
        return self._table(name, name, found.detach())

    def _call(
        self, graph: torch.fx.GraphModule, node: torch.fx.Node, env: dict[torch.fx.Node, Any], scope: str
    ) -> Any:
        args = tuple(self._value(a, env) for a in node.args)
        kwargs = {k: self._value(v, env) for k, v in node.kwargs.items()}
        target = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._inline(node, args)
        if target is operator.getitem and isinstance(args[0], (tuple, list)):
            return args[0][args[1]]  # a result of a part of the graph that was written out
        base = base_name(target)
        if base in ("lift_fresh_copy", "lift_fresh", "lift"):
            return args[0] if self.memory is None else self._add(node, "aten.clone.default", args, {}, scope)
        if base == "_native_batch_norm_legit_no_training":
            x, weight, bias, mean, var, momentum, eps = args
            args = (x, weight, bias, mean, var, False, momentum, eps, False)
            return [self._add(node, "aten.batch_norm.default", args, {}, scope), None, None]
        name = op_name(node)
        if base in PRODUCTS:
            check_types(node)
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            return self._change(node, name, args, kwargs, env)
        return self._add(node, name, args, kwargs, scope)

    def _change(
        self,
        node: torch.fx.Node,
        op: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        env: dict[torch.fx.Node, Any],
    ) -> Any:
        target: Any = node.target
        written = [a.name for a in target._schema.arguments if a.alias_info and a.alias_info.is_write]
        first = target._schema.arguments[0].name
        if torch.Tag.inplace_view in target.tags and isinstance(args[0], Ref):
            # Only the shape changes: a view, under which the tensor is known from now on.
            view = self._add(node, functional(op), args, kwargs, "")
            env.update({k: view for k, v in env.items() if v == args[0]})
            return view
        if written != [first] or not isinstance(args[0], Ref):
            raise CannotTrack(f"{op} changes more than the values of its first argument")
        assert self.memory is not None
        present = tuple(self._present(a) for a in args)
        self.memory.write(args[0].name, op, present, {k: self._present(v) for k, v in kwargs.items()})
        return args[0]

    def _inline(self, node: torch.fx.Node, args: tuple[Any, ...]) -> list[Any]:
        """Write out the part of the graph that a wrapper holds."""
        name = str(getattr(node.target, "__name__", node.target))
        if name not in _WRAPPERS:
            raise unsupported(f"the model calls torch.ops.higher_order.{name}", node)
        if name == "wrap_with_autocast" and args[2] is not False and args[0] in self.devices:
            raise CannotTrack("the model computes under torch.autocast")
        part, start = _WRAPPERS[name]
        inner = args[part]
        places = [n for n in inner.graph.nodes if n.op == "placeholder"]
        return self._graph(inner, dict(zip(places, args[start:], strict=True)), f"{node.name}_")

    def _add(
        self, node: torch.fx.Node, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], scope: str
    ) -> Ref:
        name = self._free(scope + node.name) if scope else node.name
        self.fake[name] = node.meta.get("val")
        if op in SQUEEZES and isinstance(self.fake.get(args[0].name), Tensor):
            op, args = "aten.squeeze.dims", (args[0], squeezed(self.fake[args[0].name].shape, *args[1:]))
        return self._define(Node(name, op, args, kwargs, self.module))

    def _define(self, node: Node, value: Tensor | None = None) -> Ref:
        """Write a node; its arguments are values, which another node may hold by now."""
        args = tuple(self._present(a) for a in node.args)
        kwargs = {k: self._present(v) for k, v in node.kwargs.items()}
        self.nodes.append(Node(node.name, node.op, args, kwargs, node.module))
        if self.memory is not None:
            self.memory.define(node, value)
        return Ref(node.name)

    def _emit(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], stem: str) -> str:
        node = Node(self._free(stem), op, args, kwargs, self.module)
        self.nodes.append(node)
        assert self.memory is not None
        self.memory.note(node)
        return node.name

    def _present(self, arg: Any) -> Any:
        """Arguments with each value replaced by the node that holds it now."""
        if self.memory is None:
            return arg
        if isinstance(arg, Ref):
            return Ref(self.memory.read(arg.name))
        if isinstance(arg, (tuple, list)):
            return type(arg)(self._present(a) for a in arg)
        return arg

    def _value(self, arg: Any, env: dict[torch.fx.Node, Any]) -> Any:
        if isinstance(arg, torch.fx.Node):
            return env[arg]
        if isinstance(arg, tuple):
            return tuple(self._value(a, env) for a in arg)
        if isinstance(arg, list):
            return [self._value(a, env) for a in arg]
        if isinstance(arg, dict):
            return {k: self._value(v, env) for k, v in arg.items()}
        return arg

    def _free(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.taken:
            name, number = f"{stem}_{number}", number + 1
        self.taken.add(name)
        return name


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.numel() else id(tensor)
