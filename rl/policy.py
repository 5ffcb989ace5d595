"""Saved policies: tensors and JSON in one safetensors file, for any network.

stable-baselines3's own files unpickle when they are loaded; these run nothing. A file says which agent it
is, what the agent saw and was trained on; it loads only where all that still means the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from graph.decoder import FED_BACK
from graph.encoder import DECISIONS
from graph.errors import ModelFileError, PolicyError, first_line
from graph.topology import LAYER_FEATURES, NODE_FEATURES, OPERATIONS
from prune.files import write_file
from prune.metadata import is_plain
from prune.regular import regular_size
from rl.agents.agent import AGENTS, Agent, AgentName
from rl.env import LAYER, STATE

DEFAULT, NONE = "default", "none"
# Searches where neither an agent nor a policy is named; a policy of it comes along.
AGENT: AgentName = "gnn-rl"
SHIPPED = Path(__file__).parent / "policies"
FORMAT, VERSION = "prune-policy", 1
_KEY = "prune-policy"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from.

    Attributes:
        trained_on: the networks with their data, such as ``resnet20 (digits)``.
        targets: shares of the MACs that it was trained for.
        episodes: plans that were scored.
        seed: of the training.
        command: that repeats it.
        reward: what it was trained for.
        gain: mean share of the best baseline's error that its plans save on these tasks, at the end.
    """

    trained_on: tuple[str, ...]
    targets: tuple[float, ...]
    episodes: int
    seed: int
    command: str
    reward: str
    gain: float


@dataclass(frozen=True)
class Policy:
    """A saved policy.

    Attributes:
        agent: its name.
        weights: every weight by name.
        origin: where it comes from.
        path: of its file.
    """

    agent: str
    weights: Mapping[str, Tensor]
    origin: Origin
    path: Path

    def load_into(self, agent: Agent) -> None:
        """Give its weights to an agent on any network.

        Raises:
            PolicyError: it is of another agent, or its sizes are not those of the agent.
        """
        if agent.name != self.agent:
            raise _other_agent(self.path, self.agent, agent.name)
        wanted = {name: tuple(t.shape) for name, t in agent.weights().items()}
        found = {name: tuple(t.shape) for name, t in self.weights.items()}
        if wanted != found:
            differ = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
            raise PolicyError(
                f"{self.path}: {len(differ)} of its tensors do not fit the agent (first: {differ[0]})",
                hint="it was written by another version; train it anew: prune policy train",
            )
        agent.load(dict(self.weights))

    def rows(self) -> list[tuple[str, str]]:
        """What it is, for people."""
        numbers = sum(t.numel() for t in self.weights.values())
        return [
            ("agent", self.agent),
            ("trained on", ", ".join(self.origin.trained_on)),
            ("targets", ", ".join(f"{t:g}" for t in self.origin.targets)),
            ("reward", self.origin.reward),
            ("plans scored", str(self.origin.episodes)),
            ("saves of the best baseline's", f"{self.origin.gain:.1%} on average, in training"),
            ("seed", str(self.origin.seed)),
            ("weights", f"{numbers:,} in {len(self.weights)} tensors"),
            ("command", self.origin.command),
        ]

    def to_json(self) -> dict[str, Any]:
        """What it is, as JSON data: the fields of its origin beside the file, the agent and the sizes."""
        sizes = {
            "parameters": sum(t.numel() for t in self.weights.values()),
            "tensors": len(self.weights),
        }
        return {"file": str(self.path), "agent": self.agent, **asdict(self.origin), **sizes}


def vocabulary() -> dict[str, list[str]]:
    """The names of everything that agents see; a policy means nothing under other names."""
    return {
        "node": list(NODE_FEATURES),
        "operation": list(OPERATIONS),
        "decision": list(DECISIONS),
        "fed_back": list(FED_BACK),
        "layer": list(LAYER),
        "raw_layer": list(LAYER_FEATURES),
        "state": list(STATE),
    }


def save(path: Path, agent: Agent, origin: Origin) -> None:
    """Write an agent's weights, in half precision, and where they come from.

    Raises:
        OutputError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "agent": agent.name,
        "features": vocabulary(),
        "origin": asdict(origin),
    }
    weights = {name: t.detach().half().contiguous() for name, t in agent.weights().items()}
    write_file(path, lambda p: save_file(weights, p, metadata={_KEY: json.dumps(header)}))


def load(path: Path) -> Policy:
    """Read a policy.

    Raises:
        PolicyError: it is missing, broken, no policy, or of another version.
    """
    try:
        size = regular_size(path)
    except ModelFileError as err:
        raise PolicyError(str(err), hint=err.hint) from err
    except OSError as err:
        raise PolicyError(f"cannot read the policy {path}: {err.strerror}", hint="check the path") from err
    if size > _MAX_BYTES:
        raise PolicyError(f"{path} is too large for a policy ({size:,} bytes)", hint="name a policy file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as err:  # noqa: BLE001 - a hostile file fails in several ways
        raise PolicyError(
            f"{path} is not a policy: {first_line(err)}",
            hint="a policy is what `prune policy train` writes",
        ) from err
    if _KEY not in metadata:
        raise PolicyError(
            f"{path} is a safetensors file, but not a policy",
            hint="a policy is what `prune policy train` writes",
        )
    try:
        header = json.loads(metadata[_KEY])
        return _parsed(path, header, weights)
    except (ValueError, RecursionError, KeyError, TypeError) as err:
        raise PolicyError(
            f"{path}: its metadata is malformed: {type(err).__name__}: {err}", hint="train it anew"
        ) from err


def _parsed(path: Path, header: Any, weights: dict[str, Tensor]) -> Policy:
    if not is_plain(header) or header["format"] != FORMAT:
        raise ValueError(f"it is not of the format {FORMAT}")
    if header["version"] != VERSION:
        raise PolicyError(
            f"{path} has version {header['version']} of the format {FORMAT}, only {VERSION} is known",
            hint="use the prune that wrote it, or train it anew",
        )
    if header["agent"] not in AGENTS:
        raise ValueError(f"unknown agent {header['agent']!r}")
    known, given = vocabulary(), dict(header["features"])
    if given != known:
        differ = [name for name in known if given.get(name) != known[name]]
        raise PolicyError(
            f"{path} was trained on other features ({', '.join(differ) or 'more of them'})",
            hint="train it anew: prune policy train",
        )
    broken = [n for n, t in weights.items() if not torch.isfinite(t).all()]
    if broken:
        raise ValueError(f"tensor {broken[0]} holds what is not a finite number")
    said = header["origin"]
    origin = Origin(
        tuple(str(n) for n in said["trained_on"]),
        tuple(float(t) for t in said["targets"]),
        int(said["episodes"]),
        int(said["seed"]),
        str(said["command"]),
        str(said["reward"]),
        float(said["gain"]),
    )
    if not all(map(math.isfinite, (*origin.targets, origin.gain))):
        raise ValueError("a figure of its origin is not finite")
    return Policy(header["agent"], weights, origin, path)


def find(name: str | None, agent: str | None = None) -> Policy | None:
    """The policy that an option names; None for fresh weights.

    Args:
        name: a file; ``default``, the one that comes along for the agent; ``none``; or None, where nothing is
            said: the one that comes along, if there is one.
        agent: whose it has to be; None takes that of the file, and ``AGENT`` for ``default``.

    Raises:
        PolicyError: the file is not sound, or of another agent; none comes along that was asked for.
    """
    if name == NONE:
        return None
    shipped = SHIPPED / f"{agent or AGENT}.safetensors"
    if name in (None, DEFAULT) and not shipped.exists():
        if name is None:
            return None
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise PolicyError(
            f"no policy of {agent} comes with prune, only of {known}",
            hint=f"train one: prune policy train --agent {agent}, and name its file",
        )
    found = load(shipped if name in (None, DEFAULT) else Path(str(name)))
    if agent not in (None, found.agent):
        raise _other_agent(found.path, found.agent, str(agent))
    return found


def agent_of(agent: str | None, named: str | None) -> str:
    """Who searches: whom the user names, else the agent of the policy that is named, else ``AGENT``.

    Raises:
        PolicyError: the policy is not sound.
    """
    if agent is not None:
        return agent
    found = find(named) if named is not None else None
    return AGENT if found is None else found.agent


def _other_agent(path: Path, found: str, wanted: str) -> PolicyError:
    return PolicyError(
        f"{path} holds a policy of {found}, not of {wanted}", hint=f"--agent {found}, or another file"
    )
