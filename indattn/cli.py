"""The command `indattn`: verbs, their help, completion, and errors as one line. Imports torch for no help text."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from indattn.command_line import config_dirs, overrides
from indattn.errors import Interrupted, UserError, nearest, under_torchrun
from indattn.trees import configs_dir, group_options, use, used
from indattn.verbs import GROUPS, HELP, VERBS

__all__ = ["main"]


#: Launchers that come with another package, and what pip calls it.
LAUNCHER_PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "'indattn[slurm]'",
    "submitit_slurm": "'indattn[slurm]'",
}


def main() -> None:
    """Entry point of the command."""
    try:
        code = _main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        if not isinstance(error, SweepMemberError):
            _report(error)
        code = error.exit_code
    except KeyboardInterrupt:
        print("indattn: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output left (`| head`): not an error, and nothing is left to say at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("-sc", "--shell-completion"):
        _complete(arguments)
        return 0
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(HELP.format(verbs="\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())))
        return 0
    if arguments[0] in ("-V", "--version"):
        from indattn import __version__

        print(f"indattn {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in VERBS:
        raise UserError(f"{name!r} is no verb{nearest(name, VERBS, 30)}")
    if "--help" in rest or "-h" in rest:
        print(_verb_help(name, rest))
        return 0
    _run_verb(name, rest)
    return 0


class SweepMemberError(UserError):
    """A member of a sweep failed and has said so; the sweep went on with the others.

    A job of a cluster said so in its log (``in_a_log``), which nobody watches.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.in_a_log = "SUBMITIT_EXECUTOR" in os.environ


def _report(error: Exception) -> None:
    if under_torchrun() and os.environ.get("RANK") != "0":
        return  # the first process says what stops them all
    print(f"indattn: {' '.join(str(error).split())}", file=sys.stderr)


def _verb_help(name: str, arguments: Sequence[str]) -> str:
    verb = VERBS[name]
    lines = [f"indattn {name}: {verb.summary}", "", verb.usage]
    if verb.flags:
        lines += ["", f"as options too: {'  '.join(_option(key) for key in verb.flags)}"]
    if name in ("train", "reproduce", "bench"):
        use(config_dirs(arguments)[1])
        lines += ["", "groups (choose with GROUP=NAME)"]
        lines += [f"  {group:<13} {', '.join(_choices(group))}" for group in GROUPS]
    return "\n".join(lines)


def _choices(group: str) -> list[str]:
    """Files of a group that a person chooses: those that begin with an underscore are parts of others."""
    return [option for option in group_options(group) if option[0] != "_"]


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _run_verb(name: str, arguments: Sequence[str]) -> None:
    """Hand the rest of the command line to the verb's Hydra application."""
    if name != "train" and under_torchrun():
        raise UserError(f"torchrun is for indattn train; indattn {name} runs in one process")
    arguments, folders = config_dirs(arguments)
    use(folders)
    sys.argv = [sys.argv[0], *overrides(name, arguments)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing: the errors come back to us
    _started.clear()
    argparse_error = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _argparse_error  # type: ignore[method-assign, assignment]
    try:
        with _failed_members() as failed:
            hydra_app(name)()
        for error in failed:
            if error.in_a_log:
                _report(error)
        if failed:
            raise failed[0]
    except Exception as problem:
        if isinstance(problem, UserError):
            raise
        translated = _translate(name, problem)
        if translated is None:
            raise
        raise translated from problem
    finally:
        argparse.ArgumentParser.error = argparse_error  # type: ignore[method-assign]


#: Not empty once a verb's own code runs: errors before that are about the command line.
_started: list[str] = []


def _argparse_error(parser: argparse.ArgumentParser, message: str) -> None:
    raise UserError(f"{message}; indattn VERB --help shows what a verb takes")


@contextlib.contextmanager
def _failed_members() -> Iterator[list[SweepMemberError]]:
    """The members of a sweep that failed and have said so, once it is over.

    Hydra reads what its jobs returned after all of them ran, in this process also when they ran in others. At the
    first that failed it would print a line of its own and read no further.
    """
    from hydra.core.utils import JobReturn

    failed: list[SweepMemberError] = []
    hydras: Any = JobReturn.return_value

    def return_value(job: JobReturn) -> Any:
        value = job._return_value
        if isinstance(value, SweepMemberError):
            failed.append(value)
            return None
        if isinstance(value, UserError):  # not said yet: once for the whole sweep
            raise value
        return hydras.fget(job)

    JobReturn.return_value = property(return_value, hydras.fset)  # type: ignore[method-assign, assignment]
    try:
        yield failed
    finally:
        JobReturn.return_value = hydras  # type: ignore[method-assign]


def hydra_app(name: str) -> Callable[[], Any]:
    """The verb as a Hydra application that reads ``sys.argv``."""
    import hydra

    from indattn.search_path import register

    register()

    @hydra.main(version_base="1.3", config_path=str(configs_dir()), config_name=name)
    def job(config: Any) -> Any:
        import importlib

        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf.errors import OmegaConfBaseException

        _started.append(name)
        module, _, function = VERBS[name].function.partition(":")
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        use(used(HydraConfig.get().runtime.config_sources))  # of a sweep's job, perhaps in another process
        _check_keys(name, config)
        try:
            return getattr(importlib.import_module(module), function)(config)
        except Interrupted as error:
            _report(error)
            sys.exit(error.exit_code)  # ends a sweep too: SystemExit is not caught by Hydra
        except UserError as error:
            _report(error)
            if sweep:
                raise SweepMemberError(str(error)) from error  # the sweep goes on with its other members
            sys.exit(error.exit_code)
        except Exception as error:  # of Hydra and its launchers too, which the verb may have called
            translated = error if isinstance(error, OmegaConfBaseException) else _translate(name, error)
            if translated is None:
                raise
            _report(translated)
            if sweep:
                raise SweepMemberError(str(translated)) from error
            sys.exit(2)

    return job


def _translate(name: str, error: Exception) -> UserError | None:
    """A Hydra or OmegaConf complaint as one line of ours, with the nearest right name."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if type(error).__module__.startswith("submitit."):
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return UserError(f"a job of the sweep left no result: {first}; the same command takes up what is left")
    if isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error):
        return UserError("hydra/launcher: this machine has no SLURM (srun is not found); submitit_local runs jobs here")
    early = not _started and isinstance(error, ValueError | TypeError | YAMLError)
    if not early and not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    if match := re.search(
        r"Could not (?:find|load) '([\w/]+)/([^']*)'|In '[^']+': Could not find '([\w/]+)/([^']*)'", text
    ):
        group, option = (match[1], match[2]) if match[1] else (match[3], match[4])
        if group == "hydra/launcher":
            return _no_launcher(option, re.findall(r"^\t(\S+)$", text, re.MULTILINE))
        return UserError(f"{group}={option}: no such {group}{nearest(option, _choices(group), 20)}")
    if "Config group override" in text:
        wrong = [a for a in sys.argv[1:] if a.partition("=")[0] in GROUPS and a.partition("=")[2] in ("null", "", "[]")]
        return UserError(
            f"{' '.join(wrong) or text}: a group takes the name of one of its files; see indattn {name} --help"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return _no_such_key(match[1], {*_known_keys("train" if VERBS[name].rest else name), *GROUPS})
    return UserError(" ".join(text.split()))


def _no_launcher(name: str, known: Iterable[str]) -> UserError:
    """The complaint about a launcher that is misspelt, or whose plugin is not installed."""
    if name in LAUNCHER_PACKAGES:
        return UserError(f"hydra/launcher={name} needs pip install {LAUNCHER_PACKAGES[name]}")
    return UserError(f"hydra/launcher={name}: no such launcher{nearest(name, {*known, *LAUNCHER_PACKAGES}, 12)}")


def _no_such_key(key: str, known: Iterable[str]) -> UserError:
    from indattn.config import nearest_key

    key = key.removeprefix("where.")
    return UserError(f"{key}: no such key{nearest_key(key, (name.removeprefix('where.') for name in known))}")


def _check_keys(name: str, config: Any) -> None:
    """Refuse keys that the verb does not read: one added with Hydra's ``+``, or by a file of one's own.

    The sections that describe a run are left to :func:`indattn.config.section`, which knows their keys.
    """
    from omegaconf import OmegaConf

    from indattn.config import IDENTITY

    file = OmegaConf.load(configs_dir() / f"{name}.yaml")
    own = set(_dotted_keys(file))
    groups = [group for entry in file.defaults if not isinstance(entry, str) for group in entry]
    sections = (*IDENTITY, "plan") if name in ("train", "bench") else groups
    keys = _dotted_keys(config)
    known = [key for key in keys if key in own or key.partition(".")[0] in sections]
    for key in keys:
        if key not in known:
            raise _no_such_key(key, known)


def _dotted_keys(node: Any, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig

    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            keys += _dotted_keys(child, f"{prefix}{key}.")
    return keys


def _known_keys(name: str) -> list[str]:
    """Dotted keys of the verb's composed configuration, as far as it composes without the faulty override."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from indattn.search_path import register

    register()
    chosen = [a for a in sys.argv[1:] if a.startswith("task=") and "," not in a]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        try:
            return _dotted_keys(compose(name, overrides=chosen))
        except Exception:
            return _dotted_keys(compose(name))


def _complete(arguments: Sequence[str]) -> None:
    """Shell completion: verbs and words are ours, KEY=VALUE is Hydra's."""
    if not any(argument.startswith("query=") for argument in arguments):
        hydra_app("train")()  # prints the script that installs or removes completion
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    separator = "\n" if "query=fish" in arguments else " "
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        print(separator.join(VERBS))
        return
    name = words[1]
    if name not in VERBS:
        return
    verb = VERBS[name]
    # Hydra sees a line without the verb and without the finished words that are no KEY=VALUE.
    unfinished = "" if line.endswith(" ") else words.pop()
    if unfinished.startswith("-"):
        print(separator.join(_option(key) for key in verb.flags))
        return
    try:
        words, folders = config_dirs(words[2:])
        use(folders)
    except UserError:  # a line that is not finished
        return
    finished = [word for word in words if "=" in word and word[0] != "-"]
    os.environ["COMP_LINE"] = " ".join(["indattn", *finished, unfinished])
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        hydra_app("train" if verb.rest else name)()
    # Files that begin with an underscore are parts of others, not choices.
    offered = [word for word in said.getvalue().split() if "=_" not in word]
    words = [*verb.words, *(_choices("experiment") if verb.rest else ())]
    print(separator.join([*(word for word in words if word.startswith(unfinished)), *offered]))


if __name__ == "__main__":
    main()
