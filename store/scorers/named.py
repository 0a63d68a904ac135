"""Classes that the user names, and the types that a stored scorer may bring back to life.

Nothing is imported but what was named on the command line, or to `trust`; a probe of somebody else
is refused before anything in it is made.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from hiprobe.store.errors import HiProbeError

_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
# As `torch.serialization.add_safe_globals` has it: what to trust is asked once a process, not at
# each call that leads to a file.
_trusted: set[str] = set()


def is_name(kind: str) -> bool:
    """Whether a text is of the form ``module:Class``."""
    return _PATTERN.fullmatch(kind) is not None


def trust(*names: str) -> None:
    """Trust types in probes that are read from now on.

    Parameters
    ----------
    *names : str
        ``module:Class``, or as scikit-learn and skops write it ``module.Class``.
    """
    _trusted.update(name.replace(":", ".") for name in names)
    if names:
        _find_beside_the_user()


def trusted() -> frozenset[str]:
    """The types trusted so far, as ``module.Class``."""
    return frozenset(_trusted)


def named_object(name: str) -> Any:
    """Import what ``module:Class`` names; a module may lie in the current folder.

    Raises
    ------
    HiProbeError
        No such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    _find_beside_the_user()
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        raise HiProbeError(
            f"the scorer {name!r}: cannot import the module {module!r} ({error}). Install it, or "
            "start in the folder that it lies in."
        ) from error
    except AttributeError:
        raise HiProbeError(
            f"the scorer {name!r}: the module {module!r} has no {attribute!r}."
        ) from None


def _find_beside_the_user() -> None:
    """Let modules of the current folder be found, after all installed ones."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
