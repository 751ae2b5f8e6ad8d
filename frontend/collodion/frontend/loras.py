"""The adapters that a request names, in its field `loras` and, with the syntax WEIGHTED, in its prompt.

All of them together are at most eight, each is named once, and what comes out is in the order of their names, so that the same set is the
same wherever it was written.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from collodion.frontend.errors import CallError, not_found
from collodion.frontend.fields import Fields, decimal
from collodion.v1 import job_pb2
from collodion.wire.jobs import AdapterInfo, AdapterKind, Lora, ModelInfo, Reason
from collodion.wire.prompts import extract_loras

MAX_LORAS = 8
MAX_SCALE = 4
_PATH = "job.parameters."
_LONGEST_NAME = 200
_SUGGESTED = 3


class Named(NamedTuple):
    """An adapter as it is named: in which field, what that field is called, and its scale."""

    field: str
    name: str
    scale: float


def extracted(check: Fields, asked: job_pb2.Parameters, longest: int) -> tuple[str, list[Named]]:
    """The prompt without its tags, and all adapters that the request names. What is beyond the `longest` prompt is not looked at."""
    named = _of_field(check, asked)
    if asked.prompt_syntax != job_pb2.PROMPT_SYNTAX_WEIGHTED:
        return asked.prompt, named
    prompt, tags, violations = extract_loras(asked.prompt[:longest])
    left = extract_loras(prompt)
    if left.loras or left.violations:  # the prompt, echoed and sent again, would name them
        check.wrong(f"{_PATH}prompt", "has a tag inside of another one")
    for violation in violations:
        check.wrong(f"{_PATH}prompt", violation)
    for name, scale in tags:
        if not abs(scale) <= MAX_SCALE:
            check.wrong(
                f"{_PATH}prompt", f"gives {_short(name)} the scale {scale:g}; has to be -{MAX_SCALE} to {MAX_SCALE}"
            )
        named.append(Named(f"{_PATH}prompt", name, scale))
    negative = extract_loras(asked.negative_prompt[:longest])
    if negative.loras or negative.violations:
        check.wrong(
            f"{_PATH}negative_prompt", "cannot name adapters; they are for the whole picture: name them in the prompt"
        )
    return prompt, named


def resolved(
    check: Fields, named: Sequence[Named], info: ModelInfo, adapters: Sequence[AdapterInfo]
) -> tuple[Lora, ...]:
    """What they are, by name. Notes what is wrong with them, and those that are not there."""
    if not named:
        return ()
    if not info.loras:
        for field in dict.fromkeys(one.field.partition("[")[0] for one in named):
            check.wrong(field, f"model {info.name} takes no adapters")
        return ()
    if len(named) > MAX_LORAS:
        check.wrong(f"{_PATH}loras", f"at most {MAX_LORAS}, those that the prompt names included")
    known = {adapter.name: adapter for adapter in adapters}
    unknown = list(dict.fromkeys(one.name for one in named if one.name and one.name not in known))
    if unknown:
        check.absent(_no_adapter(unknown, list(known)))
    _once_each(check, named)
    return tuple(sorted(_fitting(check, named, info, known), key=lambda lora: lora.name))


def _of_field(check: Fields, asked: job_pb2.Parameters) -> list[Named]:
    named = []
    for index, lora in enumerate(asked.loras[: 2 * MAX_LORAS]):
        path = f"{_PATH}loras[{index}]"
        check.identifier(f"{path}.name", lora.name)
        scale = decimal(lora.scale) if lora.HasField("scale") else 1.0
        check.number(f"{path}.scale", scale, -MAX_SCALE, MAX_SCALE)
        named.append(Named(f"{path}.name", lora.name, scale))
    return named


def _once_each(check: Fields, named: Sequence[Named]) -> None:
    seen: set[str] = set()
    for one in named:
        if one.name and one.name in seen:
            check.wrong(one.field, f"names {_short(one.name)}, which is named before; give it once, with one scale")
        seen.add(one.name)


def _fitting(check: Fields, named: Sequence[Named], info: ModelInfo, known: dict[str, AdapterInfo]) -> Iterator[Lora]:
    for one in named:
        adapter = known.get(one.name)
        if adapter is None:
            continue
        if adapter.kind is AdapterKind.EMBEDDING:
            check.wrong(
                one.field,
                f"{_short(one.name)} is an embedding: write its name into the prompt, with the prompt syntax WEIGHTED",
            )
        elif adapter.base and info.base and adapter.base != info.base:
            check.wrong(one.field, f"{_short(one.name)} is made for {adapter.base}, model {info.name} is {info.base}")
        yield Lora(one.name, one.scale, whole=adapter.kind is AdapterKind.WHOLE)


def _no_adapter(unknown: Sequence[str], known: Sequence[str]) -> CallError:
    """All are told, but what may have been meant only of the first: looking for it takes time with thousands of adapters."""
    first = unknown[0]
    by_case = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(first[:_LONGEST_NAME].casefold(), by_case, _SUGGESTED)
    meant = f"; did you mean {' or '.join(by_case[name] for name in close)}?" if close else ""
    named = ", ".join(repr(_short(name)) for name in unknown)
    return not_found(Reason.ADAPTER_NOT_FOUND, "Adapter", first, f"no adapter {named}{meant}")


def _short(name: str) -> str:
    return name[:_LONGEST_NAME]
