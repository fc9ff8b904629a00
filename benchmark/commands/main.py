"""The command line: the group that all commands belong to, and how mistakes are told.

The commands themselves, built-in ones too, are entry points of ``knbench.commands``. Heavy libraries are imported
inside them, so that help and mistakes answer at once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..core import registry
from ..core.errors import InterruptedRun, KnbenchError, unknown_name

EXAMPLES = """
\b
Examples:
  knbench list editors
  knbench describe capital
  knbench run --editors none,ft,rome --tasks capital --limit 10 --output runs/first
  knbench score runs/first
  knbench site build runs/first --output site
"""


class Commands(click.Group):
    """All commands that this package and others register in ``knbench.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        del ctx
        return list(registry.registered(registry.COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it, or None where nobody registered it."""
        del ctx
        points = registry.registered(registry.COMMANDS)
        command: click.Command | None = registry.load(points[cmd_name]) if cmd_name in points else None
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for a misspelt one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="knbench")
def knbench() -> None:
    """Judge model-editing methods by more than their own prompt.

    KNBench runs editing methods over facts and linguistic phenomena on a language model, measures every edit before
    and after, and builds a leaderboard from what was measured.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit status 2."""
    try:
        status = knbench.main(args=None if argv is None else list(argv), prog_name="knbench", standalone_mode=False)
        if status:  # click hands over what a command asks to exit with
            sys.exit(status)
    except click.ClickException as error:
        where = f" (see: {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _fail(error.format_message().rstrip(".") + where)
    except InterruptedRun as error:
        _fail(str(error), status=130)
    except KnbenchError as error:
        _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", status=130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        reason = "no space left on the disk" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        _fail(f"{error.filename or 'file'}: {reason}")


def _fail(message: str, status: int = 2) -> None:
    click.echo(f"knbench: {' '.join(message.split())}", err=True)
    sys.exit(status)
