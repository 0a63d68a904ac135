"""Further few-shot draws of a probe's recipe: what another choice of videos would score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from hiprobe.store import fields
from hiprobe.store.probe_members import Member


@dataclass(frozen=True)
class Draw:
    """The same recipe, fitted on other training videos.

    Attributes
    ----------
    members : tuple of Member
    threshold, calibration
        As of `Probe`.
    training : dict
        ``seed``, ``video_ids`` and ``files``, as of `Probe`.
    """

    members: tuple[Member, ...]
    threshold: dict[str, Any]
    training: dict[str, Any]
    calibration: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Its object in `probe.json`."""
        return {
            "members": [member.to_json() for member in self.members],
            "threshold": self.threshold,
            "training": self.training,
            "calibration": self.calibration,
        }

    @classmethod
    def from_json(
        cls,
        content: Any,
        name: str,
        calibration_of: Callable[[Any, str], dict[str, float]],
    ) -> Self:
        """Read what `to_json` wrote; a calibration is read as the probe's is.

        Raises
        ------
        ValueError, HiProbeError
            Something in it cannot be right.
        """
        content = fields.mapping(content, name)
        members = fields.items(fields.member(content, "members"), f"members of {name}")
        if not members:
            raise ValueError(f"members of {name} is empty")
        threshold = fields.mapping(fields.member(content, "threshold"), f"threshold of {name}")
        fields.number(fields.member(threshold, "value"), f"the threshold's value of {name}")
        training = fields.mapping(fields.member(content, "training"), f"training of {name}")
        for video_id in fields.items(fields.member(training, "video_ids"), f"video_ids of {name}"):
            fields.text(video_id, f"a training video's id of {name}")
        calibration = content.get("calibration")
        return cls(
            tuple(Member.from_json(one, f"member {i} of {name}") for i, one in enumerate(members)),
            threshold,
            training,
            None if calibration is None else calibration_of(calibration, f"calibration of {name}"),
        )
