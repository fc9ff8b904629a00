"""The ``knbench`` command: the group that contains all commands, and the printing of errors.

Commands, built-in ones included, are entry points of ``knbench.commands``. They import heavy libraries when they run:
``--help`` and error messages stay fast, and commands that need no model work without the packages of the extras.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from itertools import takewhile
from typing import NoReturn

import click

from ..core import registry
from ..core.declarations import docstring
from ..core.errors import InterruptedRun, KnbenchError, unknown_name
from ..core.printable import printable
from ..core.threads import wait_passively
from ..core.version import __version__

EXAMPLES = """
\b
Examples:
  knbench list editors
  knbench describe capital
  knbench run --editors none,ft,rome --tasks capital --limit 10 --output runs/first
  knbench score runs/first
  knbench site build runs/first --output site
"""


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "run": (
        "accelerate",
        "datasets",
        "gguf",
        "lm_eval",
        "nltk",
        "peft",
        "psutil",
        "rouge_score",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
        "xxhash",
    ),
    "ray": ("ray",),
}
"""Top-level modules of the optional dependencies in ``pyproject.toml``, by the name of the extra."""


class Commands(click.Group):
    """All commands that are registered in ``knbench.commands``, by this package or by plug-ins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(_points(ctx))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command for a list of commands; :meth:`resolve_command` returns the one to run.

        Returns None if the name is not registered, or if the command cannot be used, which a warning explains. Of a
        built-in command, only the help is read.
        """
        points = _points(ctx)
        if cmd_name not in points:
            return None
        text = docstring(points[cmd_name])
        if text is not None:
            return click.Command(cmd_name, help=text)
        try:
            return load_command(points[cmd_name])
        except KnbenchError as error:
            registry.warn(f"{error}; it is left out")
            return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run.

        Raises:
            KnbenchError: the name is unknown, which suggests the nearest one, or the command cannot be used.
        """
        if args and not args[0].startswith("-"):
            points = _points(ctx)
            if args[0] not in points:
                raise unknown_name("command", args[0], points)
            return args[0], load_command(points[args[0]]), args[1:]
        return super().resolve_command(ctx, args)


def _points(ctx: click.Context) -> Mapping[str, EntryPoint]:
    """Return the entry points of all commands. They are looked up once per call of ``knbench``."""
    if registry.COMMANDS not in ctx.meta:
        ctx.meta[registry.COMMANDS] = registry.registered(registry.COMMANDS)
    points: Mapping[str, EntryPoint] = ctx.meta[registry.COMMANDS]
    return points


def load_command(point: EntryPoint) -> click.Command:
    """Import the command of an entry point.

    Raises:
        KnbenchError: it cannot be imported or is not a command of click.
    """
    command = registry.load(point)
    if not isinstance(command, click.Command):
        raise KnbenchError(f"{registry.label(point)} is not a click command")
    return command


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="knbench")
@click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")
def knbench() -> None:
    """Benchmark model-editing methods.

    KNBench applies editing methods to a language model, on facts and linguistic phenomena. It measures the model before
    and after every edit, on the edited prompt, on paraphrases and consequences, and on what should stay unchanged. It
    builds a leaderboard from the results.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status.

    Errors that the user can fix are printed as one line on stderr, with exit status 2. ``knbench --debug`` prints their
    traceback before the line.

    Args:
        argv: the arguments; None takes those of the process.
    """
    wait_passively()  # before a command imports torch
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in takewhile(lambda argument: argument.startswith("-"), arguments)
    try:
        status = knbench.main(args=None if argv is None else arguments, prog_name="knbench", standalone_mode=False)
        if status:  # the exit status that the command requested
            sys.exit(status)
    except click.ClickException as error:
        where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _fail(error.format_message().rstrip(".") + where)
    except InterruptedRun as error:
        _fail(str(error), status=130)
    except (KnbenchError, ModuleNotFoundError) as error:
        if debug:
            _print_traceback(error)
        missing = _missing_extra(error)
        if missing is not None:
            _fail(_missing_extra_message(arguments, *missing))
        if isinstance(error, ModuleNotFoundError):
            raise
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", status=130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if debug:
            _print_traceback(error)
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        _fail(f"{error.filename or 'file'}: {reason}")


def _print_traceback(error: BaseException) -> None:
    """Print the traceback of an error and of all errors that it was raised from or while handling, on stderr."""
    cause: BaseException | None = error
    while cause is not None:  # "raise ... from None" hides the error that explains the message
        cause.__suppress_context__ = cause.__cause__ is not None
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)


def _missing_extra(error: BaseException) -> tuple[str, str] | None:
    """Return the module and the extra that an error is caused by, or None for other errors.

    Only top-level modules of :data:`EXTRAS` count. Other missing modules, for example of a plug-in, are not part of an
    extra.
    """
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError):
            return next(((str(cause.name), extra) for extra, names in EXTRAS.items() if cause.name in names), None)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _missing_extra_message(arguments: Sequence[str], module: str, extra: str) -> str:
    command = " ".join(["knbench", *takewhile(lambda argument: not argument.startswith("-"), arguments)])
    return f"'{command}' needs {module}, which is not installed; install it with: pip install 'knbench[{extra}]'"


def _fail(message: str, status: int = 2) -> NoReturn:
    """Print an error as one line and exit."""
    click.echo(f"knbench: {printable(message)}", err=True)
    sys.exit(status)
