"""The command `gbdnn`. Results go to standard output, messages and progress to standard error.

What a command needs is imported when it is called: `gbdnn --help` reads this table only.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

import click

from gbdnn import __version__
from gbdnn.cli.lazy import LazyGroup
from gbdnn.errors import DivergenceError, GbdnnError, TrainingInterrupted

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "bench": ("gbdnn.cli.bench", "load", "Compare backends and other libraries on sparse layers."),
    "challenge": ("gbdnn.cli.challenge", "challenge", "The Sparse DNN Graph Challenge."),
    "compact": ("gbdnn.cli.compact", "compact", "Remove neurons that make no difference."),
    "evaluate": ("gbdnn.cli.evaluate", "evaluate", "Compare predictions with labels."),
    "export": ("gbdnn.cli.conversion", "export_model", "Write a model for other tools."),
    "import": ("gbdnn.cli.conversion", "import_model", "Make a model of other tools' files."),
    "info": ("gbdnn.cli.info", "info", "Show versions, threads, kernels and memory."),
    "predict": ("gbdnn.cli.models", "predict", "Predict for the samples in a file."),
    "prune": ("gbdnn.cli.models", "prune", "Remove the least important weights of a model."),
    "quantize": ("gbdnn.cli.quantize", "quantize", "Write a model with weights of few bits."),
    "simulate": ("gbdnn.cli.simulate", "simulate", "Simulate a model on another machine."),
    "speech": ("gbdnn.cli.speech", "speech", "Speech recognition: data, models, decoding, scores."),
    "summary": ("gbdnn.cli.models", "summary", "Show the layers of a model file."),
    "train": ("gbdnn.cli.train", "train", "Train a sparse network and write a model file."),
    "warm": ("gbdnn.cli.warm", "warm", "Compile now what predictions will need."),
}
"""Name: module, a click command in it or a function that returns one, and a line of help."""


ALIASES = {"hidden_layer_sizes": "hidden", "learning_rate_init": "learning_rate",
           "max_iter": "epochs", "quantization": "plan", "random_state": "seed", "rng": "seed",
           "X": "data"}  # fmt: skip
"""What the estimators and functions call what an option sets, where the names differ."""


class Main(LazyGroup):
    """The command itself."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command; its errors name options, not arguments of Python."""
        try:
            return super().invoke(ctx)
        except DivergenceError:  # which speaks of a loss, not of --loss
            raise
        except GbdnnError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            options = {} if command is None else _options(command)

            def option(match: re.Match[str]) -> str:
                found = options.get(ALIASES.get(match[1], match[1]))
                return f"{found}{match[2] and ' '}" if found else match[0]

            error.argument = re.sub(r"^(\w+)()(?=$|\[)", option, error.argument)
            error.expected, error.fix = (
                re.sub(r"\b(\w+)=(?=(\w?))", option, text) for text in (error.expected, error.fix)
            )
            raise


def _options(command: click.Command) -> dict[str, str]:
    """Return what a command, or the commands of a group, call the arguments that options set."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        found = (command.get_command(context, name) for name in command.list_commands(context))
        commands = [one for one in found if one is not None]
        return {name: option for one in commands for name, option in _options(one).items()}
    return {
        str(parameter.name): parameter.opts[0]
        for parameter in command.params
        if isinstance(parameter, click.Option)
    }


@click.group(
    cls=Main,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gbdnn")
def cli() -> None:
    """Sparse deep neural networks on a CPU, at a cost that follows the non-zeros."""


def main() -> None:
    """Run the command line.

    Exit 0 on success, 1 on failure, 2 on wrong usage, 130 on Ctrl-C, 143 on SIGTERM. With --json
    a failure is one JSON object on standard output, as well as a line on standard error.
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
        _echo_failure("Interrupted", "interrupted")
    except click.ClickException as error:
        error.show()
        status = error.exit_code
        parameter = getattr(error, "param", None)
        hint = getattr(error, "param_hint", None) or getattr(error, "option_name", None)
        argument = hint or (parameter and parameter.opts[0])
        _echo_failure(type(error).__name__, error.format_message(), argument=argument)
    except (GbdnnError, OSError, MemoryError) as error:
        message = str(error) or type(error).__name__
        if type(error) is OSError and error.filename is None:  # errors of files name the file
            message = f"the output cannot be written: {message}"
        click.echo(f"error: {message}", err=True)
        status = 1
        parts = {name: getattr(error, name, None) for name in ("argument", "expected", "got")}
        parts["argument"] = parts["argument"] or getattr(error, "filename", None)
        _echo_failure(type(error).__name__, message, **parts)
    sys.exit(status if isinstance(status, int) else 0)


def _echo_failure(kind: str, message: str, **parts: Any) -> None:
    """Print the JSON object of a failure if the command line asks for JSON."""
    if "--json" in sys.argv[1:]:  # click may have failed before it knew the options
        known = {name: parts.get(name) for name in ("argument", "expected", "got")}
        record = {"error": {"kind": kind, **known, "message": message}}
        with suppress(OSError):  # which may be the failure
            click.echo(json.dumps(record, default=str))


def _show_warning(message: Any, *where: Any) -> None:
    click.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    main()
