"""Mamba-1 and Mamba-2 measured component by component over length, as PerfMamba (arXiv:2511.22849) does.

The model runs as it is: its mixers' stages are methods, and each call of one is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import cast

import torch

from graph.errors import UsageError, first_line
from graph.suggest import suggestion
from models_zoo.mamba_config import MambaConfig, Version
from models_zoo.mamba_lm import MambaLM
from profilers.device import find_device, find_dtype, threads
from profilers.latency import environment, summary
from profilers.mamba_cost import (
    COMPONENTS,
    CONV,
    EMBED,
    GATE,
    IN_PROJ,
    OUT_PROJ,
    SCAN,
    SELECT,
    blocks,
    mamba_costs,
)
from profilers.profile import Measurement, Profile
from profilers.roofline import measure_roofline
from profilers.stages import Scope, Seam, opened
from profilers.watch import Budget, watch

VIEW = "component"
MODES = ("prefill", "decode")
LENGTHS = (64, 128, 256, 512, 1024, 2048)
FULL_LENGTHS = (*LENGTHS, 4096, 8192, 16384)
_STATES = {1: 16, 2: 128}  # those of mamba_ssm's own models
_PAST = 16  # tokens that a cache has seen; what a step costs does not depend on it


@dataclass(frozen=True, kw_only=True)
class MambaSizes:
    """A model with random weights.

    Attributes:
        version: of the block.
        d_model: width.
        layers: blocks.
        d_state: states; 16 for Mamba-1 and 128 for Mamba-2 when None, as in `mamba_ssm`.
        headdim: channels of a head of Mamba-2.
        vocab_size: of the embedding; a byte each when left out.
    """

    version: int
    d_model: int = 256
    layers: int = 2
    d_state: int | None = None
    headdim: int = 64
    vocab_size: int = 256

    def build(self, seed: int = 0) -> MambaLM:
        """A new model in eval mode.

        Raises:
            ArchitectureError: sizes that make no model.
        """
        config = MambaConfig(
            version=cast(Version, self.version),  # the configuration checks it
            d_model=self.d_model,
            n_layer=self.layers,
            vocab_size=self.vocab_size,
            d_state=self.d_state or _STATES.get(self.version, 1),
            headdim=self.headdim,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MambaLM(config).eval()


@dataclass(frozen=True, kw_only=True)
class MambaProfileConfig:
    """What to measure.

    Attributes:
        lengths: of the prefill.
        modes: of ``MODES``.
        batch: sequences at once.
        dtype: of weights.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: of a CPU; torch's own number when None.
        budget: how long to measure each length.
        seed: of the tokens.

    Raises:
        UsageError: an unknown mode, or no length.
    """

    lengths: tuple[int, ...] = LENGTHS
    modes: tuple[str, ...] = MODES
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    budget: Budget = Budget(repeats=5, seconds=1.5)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the modes and lengths."""
        for mode in self.modes:
            if mode not in MODES:
                raise UsageError(f"mode {mode}: unknown", hint=suggestion(mode, MODES))
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError(f"lengths {self.lengths}: none, or not positive", hint="such as 64, 128, 256")


def profile_mamba(
    models: Mapping[str, MambaLM],
    config: MambaProfileConfig,
    command: str = "",
    on_step: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure models over length.

    Args:
        models: by name; moved to the device and the type of numbers.
        config: what to measure.
        command: for the record.
        on_step: is told what happens next.

    Raises:
        UsageError: the device is missing, or an operator does not take the type of numbers.
    """
    device, dtype = find_device(config.device), find_dtype(config.dtype)
    measurements = []
    with threads(config.threads, config.budget.clock, device):
        on_step("measuring the roofline")
        roofline = measure_roofline(device, dtype, clock=config.budget.clock)
        for name, model in models.items():
            model = model.to(device, dtype).eval()
            for mode in (m for m in MODES if m in config.modes):
                for length in config.lengths if mode == "prefill" else (1,):
                    on_step(f"{name}: {mode}" + (f" of {length} tokens" if mode == "prefill" else ""))
                    measurements.append(_measured(name, model, mode, length, config, device))
        machine = environment()
    settings = {k: v for k, v in asdict(config).items() if k != "budget"} | asdict(config.budget)
    settings |= {"lengths": list(config.lengths), "modes": list(config.modes)}
    return Profile(
        command=command,
        settings=settings | {"models": {name: _sizes(model) for name, model in models.items()}},
        environment=machine,
        roofline=roofline,
        measurements=tuple(measurements),
    )


def seams(model: MambaLM) -> Iterator[Seam]:
    """The stages of a model by component."""
    for layer in blocks(model):
        mixer = layer.mixer
        yield Seam(GATE, layer.norm)
        yield Seam(IN_PROJ, mixer, "expand")
        yield Seam(CONV, mixer, "convolve")
        yield Seam(SELECT, mixer, "select")
        yield Seam(SCAN, mixer, "scan")
        yield Seam(GATE, mixer, "gate")
        yield Seam(OUT_PROJ, mixer.out_proj)
    yield Seam(GATE, model.backbone.norm_f)
    yield Seam(EMBED, model.backbone.embedding)
    yield Seam(EMBED, model.lm_head)


def _measured(
    name: str, model: MambaLM, mode: str, length: int, config: MambaProfileConfig, device: torch.device
) -> Measurement:
    decode = mode == "decode"
    watching: Sequence[Seam] = list(seams(model))

    @contextmanager
    def prepare(scope: Scope | None) -> Iterator[Callable[[], object]]:
        with nullcontext() if scope is None else opened(watching, scope):
            yield run

    try:
        run = _runner(model, decode, length, config, device)
        watched = watch(prepare, device, config.budget)
    except (NotImplementedError, RuntimeError) as err:
        reason = first_line(err)
        if isinstance(err, torch.OutOfMemoryError) or "allocate memory" in str(err):
            told = f"{name}: {config.batch} x {length} tokens do not fit into memory"
            raise UsageError(told, hint="give shorter --lengths or a smaller --batch") from err
        if config.dtype == "float32":
            raise
        raise UsageError(f"--dtype {config.dtype}: {reason}", hint="try float32 or bfloat16") from err
    costs = mamba_costs(model, config.batch, length, decode=decode)
    parts = tuple(
        watched.part(c, [c], flops=costs[c].flops, least_bytes=costs[c].least_bytes) for c in COMPONENTS
    )
    tensors = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return Measurement(
        subject=name,
        mode=mode,
        batch=config.batch,
        length=length,
        tokens=config.batch * length,
        whole=watched.whole,
        watched=summary(watched.watched_s),
        peak_bytes=watched.peak_bytes,
        weight_bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
        views={VIEW: (*parts, watched.rest())},
    )


def _runner(
    model: MambaLM, decode: bool, length: int, config: MambaProfileConfig, device: torch.device
) -> Callable[[], object]:
    """A call that does what is measured."""
    generator = torch.Generator().manual_seed(config.seed)

    def tokens(count: int) -> torch.Tensor:
        shape = (config.batch, count)
        return torch.randint(model.sizes.vocab_size, shape, generator=generator).to(device)

    if not decode:
        ids = tokens(length)
        return lambda: model(ids)
    with torch.no_grad():
        _, cache = model.extend(tokens(_PAST))
    token = tokens(1)
    return lambda: model.extend(token, cache)


def _sizes(model: MambaLM) -> dict[str, object]:
    s = model.sizes
    found = {"version": s.version, "d_model": s.d_model, "layers": s.n_layer, "vocab_size": s.vocab_size}
    return found | {"states": list(s.states), "d_inner": s.d_inner}
