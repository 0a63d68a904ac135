"""Prompts by their names: what a run asks for beside the first one, and what its store has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from hiprobe.extract.config import BackboneConfig
from hiprobe.store import HiProbeError, Probe, StoreError
from hiprobe.store.opened import OpenedStore
from hiprobe.store.probe_inputs import Input
from hiprobe.store.taps import HIDDEN_STATES, NAME, TAPS, Tap, taps_of


@dataclass(frozen=True)
class NamedPrompt:
    """A text after the video, and its name; only the first prompt of all may have none."""

    name: str
    text: str

    @classmethod
    def of(cls, value: str) -> Self:
        """Read ``NAME=TEXT``, or a text without a name."""
        name, equals, text = value.partition("=")
        return cls(name, text) if equals and NAME.fullmatch(name) else cls("", value)


def parse_prompts(values: Sequence[str]) -> tuple[NamedPrompt, ...]:
    """Read what ``--prompt`` was given, in its order.

    Raises
    ------
    ValueError
        Two have one name, a further one has none, or a text is empty.
    """
    prompts = tuple(map(NamedPrompt.of, values))
    for number, prompt in enumerate(prompts):
        if not prompt.text.strip():
            raise ValueError(f"{values[number]!r}: the text is empty")
        if number and not prompt.name:
            raise ValueError(
                f"{prompt.text!r}: of several prompts each needs a name, such as "
                f"second={prompt.text!r}: letters, digits, - and _, then ="
            )
        if prompt.name in {one.name for one in prompts[:number]}:
            raise ValueError(f"two prompts have the name {prompt.name!r}")
    return prompts


def as_asked(config: BackboneConfig, prompts: Sequence[NamedPrompt]) -> BackboneConfig:
    """Ask for prompts; none leaves the default."""
    if not prompts:
        return config
    first, *further = prompts
    texts = tuple((one.name, one.text) for one in further)
    return replace(config, prompt=first.text, prompt_name=first.name, further_prompts=texts)


def with_stores_taps(config: BackboneConfig, store: OpenedStore) -> BackboneConfig:
    """Take all that a store has beside what is asked for: new videos need it, old ones get more.

    Its first prompt stays the first. One that is asked for without a name, or with the first's, and
    with another text stays asked for: `hiprobe.extract.settings.check_settings` refuses it.

    Raises
    ------
    StoreError
        A name is the store's for another text.
    """
    own_name, own_text = store.attributes.get("prompt_name"), store.attributes.get("prompt")
    known = texts_of([one.tap for one in store.states.values()])
    first, texts = own_text or config.prompt, dict(known)
    for name, text in [(config.prompt_name, config.prompt), *config.further_prompts]:
        if name in ("", own_name) or (text == own_text and name not in known):
            first = text
        elif known.get(name, text) != text:
            raise StoreError(
                f"{store.path}: has a prompt {name!r} already: {known[name]!r}, not {text!r}. "
                "Give it another name."
            )
        else:
            texts[name] = text
    return replace(
        config,
        prompt=first,
        prompt_name=own_name or "",
        further_prompts=tuple(texts.items()),
        taps=further_taps({*config.taps, *(one.tap.tap for one in store.states.values())}),
    )


def with_probes_first_prompt(
    config: BackboneConfig, probe: Probe, inputs: Iterable[Input], *, is_first: bool
) -> BackboneConfig:
    """Ask for the first prompt of a probe's store.

    Parameters
    ----------
    config : BackboneConfig
    probe : Probe
    inputs : iterable of Input
        What it reads.
    is_first : bool
        Nothing else says what the first prompt is to be. Otherwise it is a further one, where the
        probe reads it by its name; where it has none, who compares the records says so.
    """
    name, text = str(probe.origin.attributes.get("prompt_name") or ""), probe.origin.prompt
    if text is None:
        return config
    if is_first:
        return replace(config, prompt=text, prompt_name=name)
    if name and any(one.prompt == name for one in inputs):
        return _with_prompts(config, {name: text})
    return config


def with_probes_taps(
    config: BackboneConfig, probe: Probe, inputs: Iterable[Input]
) -> BackboneConfig:
    """Ask for what a probe reads beside ``hidden_states`` of the first prompt, too.

    Parameters
    ----------
    config : BackboneConfig
    probe : Probe
    inputs : iterable of Input
        Its own, or those of all its draws.

    Raises
    ------
    HiProbeError
        Another text is asked for by the name of a prompt that it reads.
    """
    read = tuple(inputs)
    texts = texts_of([*taps_of(probe.origin.attributes).values()])
    wanted = {name: text for name, text in texts.items() if name in {one.prompt for one in read}}
    return replace(
        _with_prompts(config, wanted),
        taps=further_taps({*config.taps, *(one.tap for one in read)}),
    )


def _with_prompts(config: BackboneConfig, wanted: Mapping[str, str]) -> BackboneConfig:
    """Ask for prompts of a probe beside those that are asked for."""
    first = {config.prompt_name: config.prompt} if config.prompt_name else {}
    asked = dict(config.further_prompts)
    for name, text in wanted.items():
        own = (first | asked).get(name, text)
        if own != text:
            raise HiProbeError(
                f"--prompt {name}: the probe's prompt of this name is {text!r}, not {own!r}. Give "
                "the other one another name."
            )
    further = asked | {name: text for name, text in wanted.items() if name not in first}
    return replace(config, further_prompts=tuple(further.items()))


def texts_of(taps: Sequence[Tap]) -> dict[str, str]:
    """Texts of prompts beside the first, by their names."""
    return {tap.prompt: tap.text for tap in taps if tap.prompt}


def further_taps(taps: set[str]) -> tuple[str, ...]:
    """Put the taps beside ``hidden_states`` in one order."""
    return tuple(one for one in TAPS if one in taps and one != HIDDEN_STATES)
