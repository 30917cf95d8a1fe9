"""The command `indattn`: verbs, their help, completion, and errors as one line. Imports torch for no help text."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from indattn.errors import Interrupted, UserError, nearest

__all__ = ["main"]


@dataclass(frozen=True)
class Verb:
    """A verb: the function it runs, its help, the key that words without ``=`` go to, whether it filters runs, and
    words that completion offers."""

    function: str
    summary: str
    usage: str
    positional: str | None = None
    filters: bool = False
    words: tuple[str, ...] = ()


VERBS = {
    "train": Verb(
        "indattn.training:run",
        "train a model on a task at a noise level, test it, draw its curves",
        """usage: indattn train [KEY=VALUE ...]
       indattn train -m KEY=A,B,C [KEY=VALUE ...]        a sweep over all combinations

examples
  indattn train                                           indirect attention, synthetic task, noise 0
  indattn train task=synthetic noise=0.5                  ... at half of the worst misalignment
  indattn train model=standard noise=0.5 seed=3           another model, another seed
  indattn train task=sorting model.self_attention=false   the paper's task, one of its readings
  indattn train task=sorting task.train_size=null         fresh examples instead of 1000 fixed pairs
  indattn train -m model=indirect,standard,cross noise=0,0.5,1 seed=0,1,2 hydra/launcher=joblib
  indattn train experiment=figure2 hydra/launcher=joblib  a whole figure of the paper

The run's folder is named by what it is: results/runs/<task>/<model>/noise-<x>/seed-<k>/<hash>. The same command
again says that it is done; after an interruption it resumes. force=true trains anew.

keys (all of them: indattn train --cfg job)
  noise=0..1  seed=0  training.steps=...  training.lr=...  training.keep_checkpoints=[0,200]
  task.*  model.*  device=auto|cpu|cuda  threads=auto|N  results_dir=results  force=true  progress=auto|true|false""",
    ),
    "evaluate": Verb(
        "indattn.evaluation:run",
        "score finished runs on other noise levels, kinds and test sets",
        """usage: indattn evaluate RUN [RUN ...] [KEY=VALUE ...]

examples
  indattn evaluate results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d
  indattn evaluate RUN noise=[0,0.25,0.5,0.75,1]          trained at one level, tested at five
  indattn evaluate RUN kind=[shift,shuffle] test_seed=[0,1,2] format=csv

Each score is also kept in the run's folder, under evaluations/.

keys
  noise=LEVEL|[...]  kind=KIND|[...]  test_seed=N|[...]  device=auto  threads=auto  format=table|csv|json""",
        "run",
    ),
    "plot": Verb(
        "indattn.plot:run",
        "draw figures and tables from the results tree",
        """usage: indattn plot [FIGURE ...] [KEY=VALUE ...]

figures
  curves      accuracy against steps, mean and 95% band over seeds
  noise       accuracy and steps to 0.9 against noise; of variants, the one nearest to the defaults is
              noise-TASK, and the names of the others say in what they differ from it
  figure2     the paper's figure 2 under every reading there are runs of
  figure3     the bias f of each layer and head, before and after training
  attention   attention maps of chosen examples
  (none named: every one that the runs allow)

examples
  indattn plot noise task=synthetic
  indattn plot figure3 task=sequence_retrieval seed=0
  indattn plot attention run=results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d example=1

Figures (PNG and PDF) go to <results_dir>/figures, the numbers in them to <results_dir>/tables. No weights are read.

keys
  task=...  model=NAME|[...]  noise=X|[...]  seed=N|[...]  or in their place run=PATH|[...]
  example=0  results_dir=results""",
        "figure",
        filters=True,
        words=("curves", "noise", "figure2", "figure3", "attention"),
    ),
    "show": Verb(
        "indattn.show:run",
        "list the runs there are, or print one",
        """usage: indattn show [RUN] [KEY=VALUE ...]

examples
  indattn show                                            every run, a line each
  indattn show task=synthetic noise=0.5 state=done
  indattn show model=[indirect,standard] format=csv > runs.csv
  indattn show results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d

keys
  task=...  model=NAME|[...]  noise=X|[...]  seed=N|[...]  state=done|unfinished|started  (without RUN)
  format=table|csv|json  results_dir=results""",
        "run",
        filters=True,
    ),
    "theory": Verb(
        "indattn.theory:run",
        "measure the paper's lemmas, its figure 1 and the signal-to-noise ratio of trained runs",
        """usage: indattn theory [figure1 | threshold | setting | training ...] [KEY=VALUE ...]

  figure1     the three panels of the paper's figure 1, measured under every reading of the text
  threshold   where the critical noise goes for correlated or heavy-tailed noise and for values with a mean
  setting     one setting of width, heads, noise, weights, covariances, ...: measured beside the closed forms
  training    trained runs that kept checkpoints: sharpness, signal-to-noise ratio and misalignment energy of every
              layer and head, along training and against noise
  (none named: figure1 and threshold)

examples
  indattn theory figure1
  indattn theory figure1 widths=[16,64,256] n=128
  indattn theory setting setting.width=128 setting.heads=4 setting.sigma=0.5 setting.covariance=0.3
  indattn train experiment=theory_training hydra/launcher=joblib && indattn theory training task=synthetic
  indattn theory training run=results/runs/synthetic/indirect/noise-0.50/seed-0/1a2b3c4d

Figures go to <results_dir>/figures, the numbers in them to <results_dir>/tables.

keys
  widths=[...]  n=64  sigmas=[...]  shifts=[...]  random_seed=0  (of figure1 and threshold)
  setting.*  samples=4000  (of setting)
  examples=128  task=...  model=...  noise=...  seed=...  or in their place run=PATH|[...]  (of training)
  format=table|csv|json  device=auto  threads=auto  progress=auto  results_dir=results""",
        "theory",
        filters=True,
        words=("figure1", "threshold", "setting", "training"),
    ),
    "bench": Verb(
        "indattn.bench:run",
        "time attentions, training steps and commands, as ratios within one run",
        """usage: indattn bench attention | step | profile | startup [KEY=VALUE ...]

examples
  indattn bench attention                                 every family and backend against plain attention
  indattn bench attention attention.lengths=[512,2048,4096] attention.families=[mlp,gaussian] rounds=5
  indattn bench step                                      a training step, the paper's size, self-attention on and off
  indattn bench step models=[standard,indirect,cross] rounds=20
  indattn bench profile models=[standard,indirect]        where the time of a training step goes
  indattn bench startup                                   how long the command line takes to answer

keys
  rounds=N  threads=1  device=auto  format=table|csv|json  results_dir=results
  attention.lengths=[...]  .batch  .heads  .head_width  .hidden  .frequencies  .offset_scale  .families  .memory
  models=[...]  steps=N  task=sorting  size=paper  (of step and profile)""",
        "bench",
        words=("attention", "step", "profile", "startup"),
    ),
}

#: Hydra's options that are followed by a word of their own.
TAKES_A_WORD = (
    "--cfg",
    "-c",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--info",
    "-i",
)

GROUPS = ("model", "task", "misalignment", "size", "experiment")

HELP = """indattn: reproduce, test and extend indirect attention (arXiv 2509.26015)

usage: indattn VERB [WORD ...] [KEY=VALUE ...]

verbs
{verbs}

start here
  indattn train task=synthetic noise=0.5      two minutes on two cores
  indattn train model=standard noise=0.5      the same without the bias
  indattn show                                what there is now
  indattn plot                                figures of it

indattn VERB --help explains a verb. Tab completion: eval "$(indattn -sc install=bash)" (zsh the same,
fish: indattn -sc install=fish | source).
"""


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
        raise UserError(f"{name!r} is no verb{nearest(name, VERBS)}")
    if "--help" in rest or "-h" in rest:
        print(_verb_help(name))
        return 0
    _run_verb(name, rest)
    return 0


class SweepMemberError(UserError):
    """A member of a sweep failed and has said so; the sweep went on with the others."""


def _report(error: Exception) -> None:
    print(f"indattn: {' '.join(str(error).split())}", file=sys.stderr)


def _verb_help(name: str) -> str:
    verb = VERBS[name]
    lines = [f"indattn {name}: {verb.summary}", "", verb.usage]
    if name in ("train", "bench"):
        from pathlib import Path

        tree = Path(__file__).resolve().parent / "configs"
        tree = tree if tree.is_dir() else tree.parent.parent / "configs"
        lines += ["", "groups (choose with GROUP=NAME)"]
        for group in GROUPS:
            options = sorted(path.stem for path in (tree / group).glob("*.yaml") if path.stem[0] != "_")
            lines.append(f"  {group:<13} {', '.join(options)}")
    return "\n".join(lines)


def _run_verb(name: str, arguments: Sequence[str]) -> None:
    """Hand the rest of the command line to the verb's Hydra application."""
    verb = VERBS[name]
    words: list[str] = []
    keep: list[str] = []
    if verb.filters:
        # `task` and `model` are config groups, which Hydra would look for: as filters they live below `where`.
        arguments = [re.sub(r"^(task|model|noise|seed|state)=", r"where.\1=", argument) for argument in arguments]
    for before, argument in zip(["", *arguments], arguments, strict=False):
        word = "=" not in argument or os.path.exists(argument)
        free = word and not argument.startswith(("-", "+", "~")) and before not in TAKES_A_WORD
        (words if free else keep).append(argument)
    if words and verb.positional is None:
        raise UserError(f"{words[0]!r}: indattn {name} takes KEY=VALUE{nearest(words[0], VERBS, 0)}")
    if words:
        quoted = ",".join("'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in words)
        keep.insert(0, f"{verb.positional}=[{quoted}]")
    sys.argv = [sys.argv[0], *keep]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing: the errors come back to us
    _started.clear()
    argparse_error = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _argparse_error  # type: ignore[method-assign, assignment]
    try:
        with _failed_members() as failed:
            hydra_app(name)()
        if failed:
            raise failed[0]
    except Exception as error:
        if isinstance(error, UserError):
            raise
        translated = _translate(name, error)
        if translated is None:
            raise
        raise translated from error
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

    from indattn.config import configs_dir

    @hydra.main(version_base="1.3", config_path=str(configs_dir()), config_name=name)
    def job(config: Any) -> Any:
        import importlib

        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf.errors import OmegaConfBaseException

        _started.append(name)
        module, _, function = VERBS[name].function.partition(":")
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
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
        except OmegaConfBaseException as error:  # a section or key taken out of the configuration
            _report(error)
            if sweep:
                raise SweepMemberError(str(error)) from error
            sys.exit(2)

    return job


def _translate(name: str, error: Exception) -> UserError | None:
    """A Hydra or OmegaConf complaint as one line of ours, with the nearest right name."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    early = not _started and isinstance(error, ValueError | TypeError)
    if not early and not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    if match := re.search(
        r"Could not (?:find|load) '([\w/]+)/([^']*)'|In '[^']+': Could not find '([\w/]+)/([^']*)'", text
    ):
        group, option = (match[1], match[2]) if match[1] else (match[3], match[4])
        from indattn.config import group_options

        options = [option for option in group_options(group) if option[0] != "_"]
        return UserError(f"{group}={option}: no such {group}{nearest(option, options)}")
    if "Config group override" in text:
        wrong = [a for a in sys.argv[1:] if a.partition("=")[0] in GROUPS and a.partition("=")[2] in ("null", "", "[]")]
        return UserError(
            f"{' '.join(wrong) or text}: a group takes the name of one of its files; see indattn {name} --help"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return _no_such_key(match[1], {*_known_keys(name), *GROUPS})
    return UserError(" ".join(text.split()))


def _no_such_key(key: str, known: Iterable[str]) -> UserError:
    from indattn.config import nearest_key

    key = key.removeprefix("where.")
    return UserError(f"{key}: no such key{nearest_key(key, (name.removeprefix('where.') for name in known))}")


def _check_keys(name: str, config: Any) -> None:
    """Refuse keys that the verb does not read: one added with Hydra's ``+``, or by a file of one's own.

    The sections that describe a run are left to :func:`indattn.config.section`, which knows their keys.
    """
    from omegaconf import OmegaConf

    from indattn.config import IDENTITY, configs_dir

    own = set(_dotted_keys(OmegaConf.load(configs_dir() / f"{name}.yaml")))
    sections = IDENTITY if name in ("train", "bench") else ()
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

    from indattn.config import configs_dir

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
    # Hydra sees a line without the verb and without the finished words that are no KEY=VALUE.
    unfinished = "" if line.endswith(" ") else words.pop()
    finished = [word for word in words[2:] if "=" in word]
    os.environ["COMP_LINE"] = " ".join([words[0], *finished, unfinished])
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        hydra_app(name)()
    # Files that begin with an underscore are parts of others, not choices.
    offered = [word for word in said.getvalue().split() if "=_" not in word]
    print(separator.join([*VERBS[name].words, *offered] if "=" not in unfinished else offered))


if __name__ == "__main__":
    main()
