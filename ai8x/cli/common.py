"""What every command shares: how exceptions become messages and exit statuses, and two-level help.

A traceback reaches the terminal only with ``--debug``; otherwise it goes to a log file that the message names.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ai8x.errors import Diagnostic, ExitStatus, HardwareFault, UserError, format_diagnostics


def run_main(body: Callable[[], int | None], *, debug: bool = False, json_errors: bool = False) -> int:
    """Run a command's body and turn whatever it raises into an exit status (docs/design.md "Messages").

    Args:
        body: returns an exit status, or None for success.
        debug: let tracebacks through.
        json_errors: print diagnostics as one JSON list on standard error.

    Returns:
        0 success, 1 internal error, 2 user error, 3 verification mismatch, 130 interrupted.
    """
    try:
        return int(body() or ExitStatus.SUCCESS)
    except UserError as error:
        print_diagnostics(error.diagnostics, json_errors=json_errors)
        return ExitStatus.USER
    except HardwareFault as error:
        print(f"hardware fault: {error}", file=sys.stderr)
        return ExitStatus.MISMATCH
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return ExitStatus.INTERNAL
    except Exception as error:  # the one place that may catch everything
        if debug:
            raise
        print(_internal_error_text(error), file=sys.stderr)
        return ExitStatus.INTERNAL


def print_diagnostics(diagnostics: Sequence[Diagnostic], *, json_errors: bool = False) -> None:
    """Diagnostics on standard error, as text or as one JSON list (docs/reference/errors.schema.json)."""
    if json_errors:
        print(json.dumps([d.to_json() for d in diagnostics]), file=sys.stderr)
        return
    print(format_diagnostics(diagnostics), file=sys.stderr)
    codes = list(dict.fromkeys(item.code for item in diagnostics if item.level == "error"))
    if codes and sys.stderr.isatty():  # for people only: scripts read what stands above
        which = "this error" if len(codes) == 1 else "the first error"
        print(f"\nmore about {which}: python -m ai8x.manual {codes[0]}", file=sys.stderr)


def _internal_error_text(error: Exception) -> str:
    headline = f"error[I0001]: internal error: {type(error).__name__}: {error}\n"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="ai8x-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
    except OSError:  # no room for a log file: the message must come out all the same
        return f"{headline}  help:    this is a defect of ai8x; please run again with --debug and report what it prints"
    return (f"{headline}  help:    this is a defect of ai8x; please report it with {log.name}, or run again with "
            "--debug")


class CommandParser(argparse.ArgumentParser):
    """An argument parser with a short ``--help`` and everything under ``--help-all``.

    Options added with ``advanced(...)`` show up only in the long form.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **options)  # type: ignore[arg-type]
        self._advanced_actions: list[tuple[argparse.Action, str]] = []
        general = self.add_argument_group("help")
        general.add_argument("-h", "--help", action="help", help="show the most used options and exit")
        general.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every option and exit")
        self._general = general

    def advanced(self, group: argparse._ArgumentGroup, *names: str, **options: object) -> None:
        """Add an option that only ``--help-all`` lists."""
        text = str(options.pop("help", ""))
        action = group.add_argument(*names, help=argparse.SUPPRESS, **options)  # type: ignore[arg-type]
        self._advanced_actions.append((action, text))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but ``--seed -1`` has a value although ``-8`` is an option."""
        self._has_negative_number_optionals.clear()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Usage and message on standard error, with the nearest option behind an unknown one; exit status 2."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        super().error(f"{message}; did you mean {near[0]}?" if near else message)

    def reveal_advanced(self) -> None:
        """Give the advanced options their help texts."""
        for action, text in self._advanced_actions:
            action.help = text


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        if isinstance(parser, CommandParser):
            parser.reveal_advanced()
        parser.print_help()
        parser.exit()

