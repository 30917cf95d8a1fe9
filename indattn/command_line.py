"""From the words behind a verb to what Hydra reads: KEY=VALUE, and Hydra's own options."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from indattn.errors import UserError, nearest
from indattn.trees import configs_dir
from indattn.verbs import VERBS

__all__ = ["TAKES_A_WORD", "config_dirs", "overrides", "quoted"]


#: Hydra's options that are followed by a word of their own.
TAKES_A_WORD = (
    "--cfg",
    "-c",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--info",
    "-i",
)


def overrides(name: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a verb as its Hydra application reads it.

    Words without ``=`` become the verb's positional key, ``-o FILE`` its output, ``--word`` its flags
    (:class:`~indattn.verbs.Verb`); everything else stays.

    Raises:
        UserError: for a word that the verb has no use for, or an option without its value.
    """
    verb = VERBS[name]
    words: list[str] = []
    keep: list[str] = []
    arguments = _flags(name, arguments)
    if verb.where:
        # `task` and `model` are config groups, which Hydra would look for.
        arguments = [re.sub(rf"^({'|'.join(verb.where)})=", r"where.\1=", argument) for argument in arguments]
    if verb.output:
        arguments, outputs = _outputs(arguments, verb.output)
        keep += outputs
    for before, argument in zip(["", *arguments], arguments, strict=False):
        word = "=" not in argument or os.path.exists(argument)
        free = word and not argument.startswith(("-", "+", "~")) and before not in TAKES_A_WORD
        (words if free else keep).append(argument)
    if words and verb.positional is None:
        raise UserError(f"{words[0]!r}: indattn {name} takes KEY=VALUE{nearest(words[0], VERBS, 0)}")
    if verb.rest:
        keep, rest = _rest(name, keep)
        keep += [f"{verb.rest}={quoted(rest)}"] * bool(rest)
    if words:
        keep.insert(0, f"{verb.positional}={quoted(words)}")
    return keep


def _rest(name: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that are the verb's own keys or options, and the overrides that are not."""
    own = {str(key) for key in _file(name)}
    behind = ["", *arguments][: len(arguments)]
    mine = [
        a.partition("=")[0] in own or a.startswith("-") or b in TAKES_A_WORD
        for a, b in zip(arguments, behind, strict=True)
    ]
    keep = [argument for argument, my in zip(arguments, mine, strict=True) if my]
    return keep, [argument for argument, my in zip(arguments, mine, strict=True) if not my]


def config_dirs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without ``--config-dir FOLDER`` (or ``-cd``), and the folders.

    Hydra has the option too, but its folder would be known to Hydra alone, and help, hints and completion know all.

    Raises:
        UserError: if no folder follows.
    """
    rest, folders = [], []
    given = iter(arguments)
    for argument in given:
        option, equals, value = argument.partition("=")
        if option not in ("--config-dir", "-cd"):
            rest.append(argument)
            continue
        folders.append(value if equals else next(given, ""))
        if not folders[-1]:
            raise UserError(f"{option}: a folder must follow")
    return rest, folders


def _flags(name: str, arguments: Sequence[str]) -> list[str]:
    """The command line with the verb's flags as KEY=VALUE.

    A key that is true or false by default takes no value: ``--yes`` is ``yes=true``.
    """
    given: list[str] = []
    switches: set[str] | None = None
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        key = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or key not in VERBS[name].flags:
            given.append(argument)
            continue
        if not equals:
            switches = _switches(name) if switches is None else switches
            value = "true" if key in switches else next(rest, "--")
        if value.startswith("--"):
            raise UserError(f"{option}: a value must follow; see indattn {name} --help")
        given.append(f"{key}={value}")
    return given


def _switches(name: str) -> set[str]:
    """Keys of a verb that are true or false by default."""
    file = _file(name)
    return {str(key) for key, value in file.items() if isinstance(value, bool)}


def _file(name: str) -> Any:
    """The configuration file of a verb."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(configs_dir() / f"{name}.yaml"), resolve=False)


def quoted(words: Sequence[str]) -> str:
    """A list in the grammar of Hydra's overrides."""
    return "[" + ",".join("'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in words) + "]"


def _outputs(arguments: Sequence[str], key: str) -> tuple[list[str], list[str]]:
    """The command line without ``-o FILE``, and the files as an override of a key."""
    rest, files = [], []
    waiting = False
    for argument in arguments:
        if waiting:
            files.append(argument)
        elif argument != "-o":
            rest.append(argument)
        waiting = argument == "-o" and not waiting
    if waiting:
        raise UserError("-o: a file must follow")
    if files and any(argument.startswith(f"{key}=") for argument in rest):
        raise UserError(f"-o and {key}=: give one or the other; -o may come several times")
    return rest, [f"{key}={quoted(files)}"] if files else []
