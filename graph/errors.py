"""Every failure that has a name: one class per cause, each with a hint for the user; others in one line."""

from __future__ import annotations

from textwrap import shorten

_LONGEST = 200  # characters of what a library says


class PruneError(Exception):
    """Base of all failures that are the input's fault, not a bug of ours.

    The command line prints ``error: MESSAGE`` and ``hint: HINT`` and leaves with exit code 2.

    Args:
        message: one line that names the offending value.
        hint: one line that names the next step; empty when there is none to give.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PruneError):
    """An option's value, or a combination of options, that makes no sense."""


class ModelFileError(PruneError):
    """A model file that is missing, broken, or not what its name says."""


class ManifestError(ModelFileError):
    """A file of a run that is no longer what was written, or a manifest that is damaged."""


class UntrustedCodeError(PruneError):
    """A model file that would run code when it is loaded, without the user's consent."""


class ArchitectureError(PruneError):
    """An unknown architecture, or weights that do not fit the architecture."""


class DataError(PruneError):
    """A data set that is unknown, missing, incomplete or malformed."""


class CaptureError(PruneError):
    """A model that ``torch.export`` cannot turn into a program."""


class ProgramError(PruneError):
    """A stored program that is malformed or asks for an operator outside the allowed set."""


class TargetError(PruneError):
    """A compression target that is malformed or cannot be reached."""


class PlanError(PruneError):
    """A plan that does not fit the program it is applied to."""


class PolicyError(PruneError):
    """A saved policy that is missing, broken, or not of the agent it is given to."""


class VerificationError(PruneError):
    """A pruned program that does not compute what the masked original computes."""


class TrainingError(PruneError):
    """A training run that cannot start, or whose loss is no longer a finite number."""


class ExportError(PruneError):
    """An exported file that is invalid or does not agree with the model it came from."""


class OutputError(PruneError):
    """An output path that cannot be written, or holds something that would be lost."""


class ResumeError(PruneError):
    """A run that cannot go on: there is none, or the model, the data or the options are other ones."""


class MemoryLimitError(PruneError):
    """More memory than there is, even for the smallest batch."""


class WorkerError(PruneError):
    """Processes or machines that score plans cannot be had, or are lost again and again."""


def first_line(err: BaseException) -> str:
    """One line of an error that may have many, or none, of 200 characters at most."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return shorten(lines[0], _LONGEST, placeholder=" ...") if lines else type(err).__name__
