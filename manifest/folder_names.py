"""What folders' names say: which split, normal or anomalous, which kind of anomaly.

The names of the field's data sets at any depth: ``Training-Normal-Videos-Part-1``, ``NonFight``,
``non-violence``, ``benign``, ``Testing_Normal_Videos_Anomaly`` are normal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

# RWF-2000 and others call `val` what they test on.
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "val": "test", "validation": "test",
}  # fmt: skip

_ANOMALY = r"anomal(?:y|ies|ous)|abnormal(?:ity|ities)?"
# UCF-Crime's, XD-Violence's and MSAD's kinds, and what collections of two classes are called.
_EVENT = (
    r"fight(?:s|ing)?|violen(?:ce|t)|crim(?:e|es|inal)|accidents?|incidents?|abuse|arrest|arson|"
    r"assault|burglary|explosions?|robbery|shooting|shoplifting|stealing|theft|vandalism|riots?|"
    r"fire|fall(?:s|ing)?|aggressi(?:on|ve)|bullying"
)
_NORMAL_WORD = r"normal(?:s|ity)?(?: ?videos?)?|benign|regular"
_NO = r"(?:non|no|not) ?"
_NOT_NORMAL = re.compile(rf"\b(?:{_NO}|ab |un)(?:{_NORMAL_WORD})\b")
_NORMAL = re.compile(rf"\b(?:{_NORMAL_WORD}|{_NO}(?:{_ANOMALY}|{_EVENT}))\b")
_CONTAINER = re.compile(r"videos?|clips?|data|datasets?|parts?|\d+")


class _Kind(Enum):
    """What a folder's name says of the videos below it."""

    NORMAL = "normal"
    ANOMALY = "anomalous"
    EVENT = "a kind of anomaly"
    CONTAINER = "nothing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class FolderLabel:
    """What the folders above a video say of it.

    Attributes
    ----------
    split : str
        'train', 'test', or '' where no name tells.
    label : {'normal', 'anomalous'}
    category : str
    told_by : str
        The name that the label comes from.
    is_known : bool
        Whether that name is one that is known, or was told; else it counts as a kind of anomaly.
    contradicted_by : str
        A name above, which says the opposite; '' for none.
    """

    split: str
    label: str
    category: str
    told_by: str
    is_known: bool = True
    contradicted_by: str = ""


def read_names(folders: Sequence[str], normal: Sequence[str] = ()) -> FolderLabel | None:
    """Read the names of the folders that a video lies in.

    Parameters
    ----------
    folders : sequence of str
        From the outermost to the innermost, below the collection's own folder.
    normal : sequence of str
        Names, or parts of paths such as ``cam2/empty``, whose videos are normal, whatever they
        would say otherwise.

    Returns
    -------
    FolderLabel or None
        None if no name says anything of the label.

    Notes
    -----
    The names below the split count, or those above it where there are none. Of names that are
    known the innermost decides; where none is known, the outermost is the category of an anomaly.
    """
    at = [i for i, name in enumerate(folders) if name.lower() in SPLIT_FOLDERS]
    names = [*folders[at[-1] + 1 :]] or [*folders[: at[-1]]] if at else [*folders]
    split = SPLIT_FOLDERS[folders[at[-1]].lower()] if at else _split_in(names)
    for told in normal:
        if fits(told, folders):
            return FolderLabel(split, "normal", "", told)
    kinds = [_kind(name) for name in names]
    telling = [i for i, kind in enumerate(kinds) if kind not in (_Kind.CONTAINER, _Kind.UNKNOWN)]
    if not telling:
        unknown = [name for name, kind in zip(names, kinds, strict=True) if kind is _Kind.UNKNOWN]
        if not unknown:
            return None
        return FolderLabel(split, "anomalous", unknown[0], unknown[0], is_known=False)
    last = telling[-1]
    is_normal = kinds[last] is _Kind.NORMAL
    others = [names[i] for i in telling if (kinds[i] is _Kind.NORMAL) != is_normal]
    below = [names[i] for i in range(last + 1, len(names)) if kinds[i] is _Kind.UNKNOWN]
    category = below[0] if kinds[last] is _Kind.ANOMALY and below else names[last]
    return FolderLabel(
        split,
        "normal" if is_normal else "anomalous",
        "" if is_normal else category,
        names[last],
        contradicted_by=others[-1] if others else "",
    )


def fits(told: str, folders: Sequence[str]) -> bool:
    """Whether a name, or a part of a path, is among the folders, whatever its capitals."""
    wanted = [part.casefold() for part in told.strip("/").split("/")]
    names = [name.casefold() for name in folders]
    return any(names[i : i + len(wanted)] == wanted for i in range(len(names)))


def _kind(name: str) -> _Kind:
    words = _words(name)
    if _NOT_NORMAL.search(words):
        return _Kind.ANOMALY
    if _NORMAL.search(words):
        return _Kind.NORMAL
    if re.search(rf"\b(?:{_EVENT})\b", words):
        return _Kind.EVENT
    if re.search(rf"\b(?:{_ANOMALY})\b", words):
        return _Kind.ANOMALY
    is_container = all(
        _CONTAINER.fullmatch(word) or word in SPLIT_FOLDERS for word in words.split()
    )
    return _Kind.CONTAINER if is_container else _Kind.UNKNOWN


def _split_in(names: Sequence[str]) -> str:
    """Read a split within a name that is known: ``Testing_Normal_Videos_Anomaly`` is for tests."""
    for name in names:
        if _kind(name) is not _Kind.UNKNOWN:
            for word in _words(name).split():
                if word in SPLIT_FOLDERS:
                    return SPLIT_FOLDERS[word]
    return ""


def _words(name: str) -> str:
    """Write a name as small words: ``NonFight-2`` is 'non fight 2'."""
    spread = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"[^\W\d_]+|\d+", spread.lower()))
