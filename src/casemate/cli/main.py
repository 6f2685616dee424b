"""The command `casemate`: parse, call, print. Heavy imports wait until a command runs."""

import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from casemate.cli import assess, compare, harden, human_study, physical, prove, report, scan, screen, show
from casemate.cli import list as list_
from casemate.cli.words import Interrupted
from casemate.core.errors import CasemateError, UsageError

app = typer.Typer(
    name="casemate",
    help="Attack a model as its enemies would, say how sure that is, harden it and attack again.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (assess, harden, compare, report, screen, scan, list_, show, prove):
    app.command(command.__name__.rpartition(".")[2])(command.command)
app.add_typer(human_study.app, name="human-study")
app.add_typer(physical.app, name="physical")


@app.callback(invoke_without_command=True)
def _casemate(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(f"casemate {version('casemate')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong use, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; what went wrong is one line on standard error."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given, prog_name="casemate", standalone_mode=False, obj=given)
        sys.stdout.flush()
    except UsageError as error:
        return _say(str(error), 2)
    except CasemateError as error:
        return _say(str(error), 1)
    except typer.TyperException as error:
        told = error.format_message().replace("Value error, ", "").rstrip(".")
        return _say(f"{told}{'' if told.endswith('?') else '.'} See 'casemate --help'.", 2)
    except Interrupted as error:
        return _say(str(error), 130)
    except KeyboardInterrupt:
        return _say("stopped.", 130)
    except BrokenPipeError:
        # whoever read the output, such as `head`, has had enough; python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # typer turns an interruption of other commands into this code
    return _say("stopped.", 130) if code == 130 else int(code or 0)


def _say(text: str, code: int) -> int:
    print(f"casemate: {' '.join(text.split())}", file=sys.stderr)
    return code
