"""The command `gbdnn`. Results go to standard output, messages and progress to standard error.

What a command needs is imported when it is called: `gbdnn --help` reads this table only.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from gbdnn import __version__
from gbdnn.errors import GbdnnError, TrainingInterrupted

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "bench": ("gbdnn.cli.bench", "load", "Compare backends and other libraries on sparse layers."),
    "challenge": ("gbdnn.cli.challenge", "challenge", "The Sparse DNN Graph Challenge."),
    "info": ("gbdnn.cli.info", "info", "Show versions, threads, kernels and memory."),
    "predict": ("gbdnn.cli.models", "predict", "Predict for the samples in a file."),
    "prune": ("gbdnn.cli.models", "prune", "Remove the least important weights of a model."),
    "summary": ("gbdnn.cli.models", "summary", "Show the layers of a model file."),
    "train": ("gbdnn.cli.train", "train", "Train a sparse network and write a model file."),
}
"""Name: module, a click command in it or a function that returns one, and a line of help."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found: Any = getattr(import_module(module), attribute)
        command: click.Command = found if isinstance(found, click.Command) else found()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' lines of help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gbdnn")
def cli() -> None:
    """Sparse deep neural networks on a CPU, at a cost that follows the non-zeros."""


def main() -> None:
    """Run the command line.

    Exit 0 on success, 1 on failure, 2 on wrong usage, 130 on Ctrl-C, 143 on SIGTERM.
    """
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("gbdnn").setLevel(logging.INFO)  # says what takes seconds: compiling, ...
    try:
        status = cli.main(prog_name="gbdnn", standalone_mode=False)
    except click.exceptions.Abort as error:  # which click makes of KeyboardInterrupt
        click.echo("interrupted", err=True)
        cause = error.__cause__
        status = 128 + (cause.signal if isinstance(cause, TrainingInterrupted) else signal.SIGINT)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (GbdnnError, OSError, MemoryError) as error:
        click.echo(f"error: {str(error) or type(error).__name__}", err=True)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _show_warning(message: Any, *where: Any) -> None:
    click.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    main()
