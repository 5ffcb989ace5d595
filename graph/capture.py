"""Capture: any torch module becomes a Program through ``torch.export``.

The program keeps the operators of the exported graph as they are (``conv2d``, ``batch_norm``, ``dropout``,
``linear``), because they can still switch between training and evaluation. In-place operators are turned
into their functional twins, so that each node is a value of its own.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from graph.errors import CaptureError
from graph.program import INPUT, TENSOR, InputSpec, Node, Program, Ref, refs_in

# Checks that the exporter leaves behind; they compute nothing.
_ASSERTIONS = ("_assert", "sym_constrain", "assert_")
_BUILTIN_NAMES = {
    operator.getitem: "getitem",
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.floordiv: "floordiv",
    operator.mod: "mod",
    operator.neg: "neg",
}
# Results of these share memory with their first argument, so an in-place change of one shows in the other.
_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "t", "slice", "select", "narrow",
    "split", "split_with_sizes", "chunk", "unbind", "squeeze", "unsqueeze", "expand", "expand_as", "view_as",
    "getitem", "detach", "contiguous", "to", "alias", "unfold", "movedim", "swapaxes", "diagonal",
}  # fmt: skip


def capture(module: nn.Module, example: Sequence[Tensor]) -> Program:
    """Turn a module into a program, in eval mode and with a free batch size where the model allows it.

    Args:
        module: left as it was; its mode is restored.
        example: one tensor per input of ``forward``, batch first. The batch should be at least 2.

    Raises:
        CaptureError: ``torch.export`` cannot trace the model; names the user's line where it is known.
    """
    was_training = module.training
    module.eval()
    try:
        exported, dynamic, notes = _export(module, tuple(example))
    finally:
        module.train(was_training)
    return _program(exported, module, tuple(example), dynamic, notes)


def _export(module: nn.Module, example: tuple[Tensor, ...]) -> tuple[ExportedProgram, bool, tuple[str, ...]]:
    batch = Dim("batch")
    shapes = tuple({0: batch} if t.dim() > 0 else None for t in example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(module, example, dynamic_shapes=shapes, strict=False), True, ()
        except Exception:  # noqa: BLE001 - the exporter raises whatever the user's code raises
            pass
        try:
            exported = torch.export.export(module, example, strict=False)
        except Exception as err:  # noqa: BLE001
            raise CaptureError(
                f"torch.export cannot capture {type(module).__name__}: {_first_line(err)}{_where(err)}",
                hint="check the input shape; data-dependent control flow (if/for on tensor values) "
                "must be replaced by torch.where or torch.cond",
            ) from err
    size = example[0].shape[0] if example and example[0].dim() else 1
    return exported, False, (f"the batch size is fixed to {size}: the model does not export with a free one",)


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0] if lines else type(err).__name__


def _where(err: BaseException) -> str:
    """The last frame of the traceback that is not torch's own: the user's line."""
    found = ""
    trace = err.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and not name.startswith("<") and not name.endswith("graph/capture.py"):
            found = f" (at {name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _program(
    exported: ExportedProgram,
    module: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: bool,
    notes: tuple[str, ...],
) -> Program:
    if _mutates_views(exported):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            exported = exported.run_decompositions({})
        notes = (*notes, "dropout is left out: the model changes slices of tensors in place")
    return _Converter(exported, module, example, dynamic, notes).run()


def _mutates_views(exported: ExportedProgram) -> bool:
    """Whether an operator changes a value in place that shares memory with another one."""
    shared: set[str] = set()
    for node in exported.graph.nodes:
        if node.op != "call_function":
            if node.op == "placeholder":
                shared.add(node.name)
            continue
        base = _base(node.target)
        sources = [a for a in node.all_input_nodes]
        if base in _VIEWS and sources:
            shared |= {node.name, sources[0].name}
        elif _in_place(node.target) and sources and sources[0].name in shared:
            return True
    return False


def _base(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return _BUILTIN_NAMES.get(target, str(getattr(target, "__name__", target)))


def _in_place(target: Any) -> bool:
    base = _base(target)
    return isinstance(target, torch._ops.OpOverload) and base.endswith("_") and not base.startswith("__")


class _Converter:
    """Walks an exported graph once and writes the program's nodes."""

    def __init__(
        self,
        exported: ExportedProgram,
        module: nn.Module,
        example: tuple[Tensor, ...],
        dynamic: bool,
        notes: tuple[str, ...],
    ) -> None:
        self.exported = exported
        self.example = example
        self.dynamic = dynamic
        self.notes = notes
        self.parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self.nodes: list[Node] = []
        self.renamed: dict[str, Ref] = {}
        self.tensors: dict[str, Tensor] = {}
        self.by_storage: dict[int, str] = {}
        self.inputs: list[InputSpec] = []

    def run(self) -> Program:
        signature = self.exported.graph_signature
        mutated = [s for s in signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
        if mutated:
            raise CaptureError(
                f"the model changes its own state in forward: {mutated[0].target}",
                hint="capture it in eval mode, or return the state as an output",
            )
        kinds = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        output: Any = None
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds[node.name])
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                output = self._output(node)
            else:
                raise CaptureError(
                    f"the captured graph holds a node of kind {node.op!r} ({node.name})",
                    hint="torch.cond and other higher-order operators are not supported",
                )
        program = Program(
            tuple(_without_dead(self.nodes, output)),
            tuple(self.inputs),
            output,
            self.tensors,
            frozenset(self.parameters & set(self.tensors)),
            self.dynamic,
            self.notes,
        )
        program.check()
        return program

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> None:
        if spec.kind is InputKind.USER_INPUT:
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                self.renamed[node.name] = Ref(node.name)
                if node.users:
                    raise CaptureError(f"the input {node.name!r} is no tensor")
                return
            shape = tuple(self.example[len(self.inputs)].shape)
            self.inputs.append(InputSpec(node.name, shape, str(value.dtype).removeprefix("torch.")))
            self._add(node.name, Node(node.name, INPUT))
            return
        name = str(spec.target)
        if spec.kind is InputKind.CONSTANT_TENSOR or name not in self.exported.state_dict:
            tensor = self.exported.constants[name]
        else:
            tensor = self.exported.state_dict[name]
        tensor = tensor.detach()
        # Tied weights reach the graph under two names; they stay one tensor.
        key = tensor.data_ptr() if tensor.numel() else id(tensor)
        first = self.by_storage.setdefault(key, name)
        if first != name and self.tensors[first].shape == tensor.shape:
            existing = next(n for n in self.nodes if n.op == TENSOR and n.args[0] == first)
            self.renamed[node.name] = Ref(existing.name)
            return
        self.tensors[name] = tensor
        self._add(node.name, Node(node.name, TENSOR, (name,)))

    def _call(self, node: torch.fx.Node) -> None:
        base = _base(node.target)
        if any(base.startswith(a) for a in _ASSERTIONS):
            return
        args = tuple(self._convert(a) for a in node.args)
        kwargs = {k: self._convert(v) for k, v in node.kwargs.items()}
        module = _module_path(node)
        if base == "_native_batch_norm_legit_no_training":
            x, weight, bias, mean, var, momentum, eps = args
            args = (x, weight, bias, mean, var, False, momentum, eps, False)
            self._add(node.name, Node(node.name, "aten.batch_norm.default", args, {}, module))
            return
        if base == "getitem" and isinstance(node.args[0], torch.fx.Node):
            source = _base(node.args[0].target) if node.args[0].op == "call_function" else ""
            if source == "_native_batch_norm_legit_no_training":
                self.renamed[node.name] = args[0]
                return
        if base == "lift_fresh_copy":
            self.renamed[node.name] = args[0]
            return
        if _in_place(node.target):
            target = _functional(node.target)
            self._add(node.name, Node(node.name, target, args, kwargs, module))
            changed = node.args[0]
            if isinstance(changed, torch.fx.Node):
                # Later readers of the changed value see the new one.
                self.renamed[changed.name] = Ref(node.name)
                for old, ref in self.renamed.items():
                    if isinstance(args[0], Ref) and ref == args[0]:
                        self.renamed[old] = Ref(node.name)
            return
        self._add(node.name, Node(node.name, _op_name(node.target), args, kwargs, module))

    def _add(self, name: str, node: Node) -> None:
        self.nodes.append(node)
        self.renamed[name] = Ref(name)

    def _convert(self, arg: Any) -> Any:
        if isinstance(arg, torch.fx.Node):
            return self.renamed[arg.name]
        if isinstance(arg, tuple):
            return tuple(self._convert(a) for a in arg)
        if isinstance(arg, list):
            return [self._convert(a) for a in arg]
        if isinstance(arg, dict):
            return {k: self._convert(v) for k, v in arg.items()}
        return arg

    def _output(self, node: torch.fx.Node) -> Any:
        (results,) = node.args
        values = list(self._convert(results))
        return values[0] if len(values) == 1 else tuple(values)


def _functional(target: Any) -> str:
    """The name of the out-of-place twin of an in-place operator."""
    namespace, name = target._schema.name.split("::")
    twin = getattr(getattr(torch.ops, namespace), name.rstrip("_"), None)
    overload = target._overloadname
    if twin is None or overload not in twin.overloads():
        raise CaptureError(f"the in-place operator {name!r} has no functional form")
    return f"{namespace}.{name.rstrip('_')}.{overload}"


def _op_name(target: Callable[..., Any] | str) -> str:
    if isinstance(target, torch._ops.OpOverload):
        namespace, name = target._schema.name.split("::")
        if namespace == "aten":
            return f"aten.{name}.{target._overloadname}"
        raise CaptureError(
            f"the model calls the custom operator {namespace}::{name}",
            hint="only PyTorch's own operators can be captured; write the model without it",
        )
    if not isinstance(target, str) and target in _BUILTIN_NAMES:
        return f"builtin.{_BUILTIN_NAMES[target]}"
    raise CaptureError(
        f"the model needs {getattr(target, '__name__', target)!r} at run time",
        hint="higher-order operators (torch.cond, checkpoint) cannot be captured",
    )


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for name, _ in stack.values():
        if not str(name).startswith("_empty_nn_module_stack"):
            path = str(name)
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def _without_dead(nodes: list[Node], output: Any) -> list[Node]:
    """Drop operators whose value nobody reads; inputs and tensors stay."""
    alive = {r.name for r in refs_in(output)}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.op in (INPUT, TENSOR) or node.name in alive:
            kept.append(node)
            alive.update(node.refs)
    return kept[::-1]
