"""The models that benchmarks measure are tested, too."""

import sys
from pathlib import Path

# The checkout itself, not benchmarks/: a benchmark may have the name of a room (benchmarks/graph.py).
sys.path.append(str(Path(__file__).resolve().parent.parent))
