"""The entry point: runs a command and turns everything that can end it into one line and an exit status.

0 success, 1 error, 2 usage, 130 interrupted. Nothing here imports JAX, so that `--help` stays instant.
"""

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from thalweg.cli import about, answers, combination, detection, fitting, generation  # noqa: F401 (each registers its commands)
from thalweg.cli.app import app, in_order
from thalweg.cli.arguments import resume_command
from thalweg.cli.cache import read_without_a_word
from thalweg.cli.member import watched
from thalweg.cli.output import printable
from thalweg.errors import DataWarning, Interrupted, ThalwegError

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130
#: typer brings its own copy of click or the real one, by version; both raise this class and its subclasses.
UsageError: type[Exception] = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "UsageError")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; no traceback unless `THALWEG_TRACEBACK` is set."""
    if "_THALWEG_COMPLETE" in os.environ:  # the shell asks for completions: typer's own business
        return in_order(app)() or OK
    read_without_a_word()
    if args is None:
        return _leave(main(sys.argv[1:]))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=DataWarning)
        warnings.showwarning = _one_line_each()
        return _guarded(list(args))


def _leave(status: int) -> int:
    """The status of the whole process; an interrupted one ends here, with its word said.

    XLA's threads may still be compiling what was interrupted, and the interpreter's own shutdown, which frees
    what they use, can then crash. One of several processes that has failed does not wait for the others.
    """
    if status == INTERRUPTED or (status and watched()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    return status


def _guarded(args: list[str]) -> int:
    """The command, and the one place where exceptions become exit statuses."""
    command = typer.main.get_command(in_order(app))
    try:
        with command.make_context("thalweg", list(args), obj=list(args)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return OK
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as end:  # rich ends the process itself where its reader has left
        return OK if isinstance(end.__context__, BrokenPipeError) else int(end.code or OK)
    except UsageError as error:
        return _usage(args, error)
    except (KeyboardInterrupt, typer.Abort) as stop:  # before ThalwegError: `Interrupted` is both
        return _interrupted(args, stop)
    except ThalwegError as error:
        return _failed(args, error, f"error: {error}")
    except OSError as error:
        return _failed(args, error, f"error: {error}")
    except MemoryError as error:
        return _failed(args, error, "error: not enough memory; give fewer rows at a time or a smaller model")
    except Exception as error:
        return _failed(
            args, error, f"bug: {_where(error)}; THALWEG_TRACEBACK=1 shows the trace, please report it"
        )


def _failed(args: list[str], error: BaseException, line: str, status: int = ERROR) -> int:
    """Report one failure: the line on standard error and, with `--json`, an object on standard output."""
    if os.environ.get("THALWEG_TRACEBACK"):
        traceback.print_exception(error)
    print(printable(line, newlines=True), file=sys.stderr)
    if "--json" in args:
        message = line.split(": ", 1)[-1]
        try:
            print(json.dumps({"error": {"kind": type(error).__name__, "message": message}, "status": status}))
            sys.stdout.flush()
        except OSError:
            return _reader_left(status)
    return status


def _usage(args: list[str], error: Any) -> int:
    context = getattr(error, "ctx", None)
    asked = context.command_path if context is not None else "thalweg"
    return _failed(args, error, f"error: {error.format_message()}\nsee: {asked} --help", USAGE)


def _interrupted(args: list[str], stop: BaseException) -> int:
    if isinstance(stop, Interrupted):
        again = resume_command(args)
        line = f"interrupted: {stop}" + (f"\nresume: {again}" if again else "")
    else:
        line = "interrupted: nothing was written"
    return _failed(args, stop, line, INTERRUPTED)


def _reader_left(status: int = OK) -> int:
    """Whoever read standard output closed it (`| head`): stop quietly, with nothing left to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _where(error: BaseException) -> str:
    """The exception and the line that raised it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def _one_line_each() -> Callable[..., None]:
    """A `warnings.showwarning` that prints each message once, as one line."""
    seen = set()

    def show(message, category, filename, lineno, file=None, line=None):
        text = printable(" ".join(str(message).split()))
        if text not in seen:
            seen.add(text)
            print(f"warning: {text}", file=sys.stderr)

    return show


if __name__ == "__main__":
    sys.exit(main())
