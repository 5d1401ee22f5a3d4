"""`distill`: the application. One small file a command group; this one only joins them."""

import errno
import sys

import typer

from cli import (
    ablate_command,
    benchmarks_command,
    compare_command,
    decontaminate_command,
    judge_command,
    plan_command,
    preflight_command,
    report_command,
    run_command,
    teacher_command,
    traces_command,
)
from cli.ranks import end, is_rank
from distill.errors import StoppedError, UserError

app = typer.Typer(
    name="distill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn a large reasoning model into small dense ones, and prove it with error bars.\n\n"
    "Start with `make demo`, or: distill run --recipe mini. A recipe is a TOML file whose tables are steps; "
    "`distill run` walks it and skips what is done; every stage is also a command of its own.",
)
STOPPED = 3
"""Exit code when a limit of the recipe was reached: nothing failed, and the step is not finished."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as typer sets it."""
SCREEN = 24
"""Lines of an error that a terminal shows."""
MENDABLE = {
    errno.ENOSPC: "disk full; nothing acknowledged is lost: free space and run the same command",
    errno.EDQUOT: "disk quota reached; nothing acknowledged is lost: free space and run the same command",
    errno.EACCES: "permission denied; choose another folder with --out, or change its rights",
    errno.EROFS: "read-only file system; choose another folder with --out",
    errno.ENOTDIR: "not a folder; choose another with --out",
    errno.EEXIST: "is there already and no folder; choose another with --out",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOENT: "no such file or folder",
    errno.ENAMETOOLONG: "name too long",
    errno.ELOOP: "too many links",
}
"""What the operating system refuses and the user can mend."""

run_command.register(app)
report_command.register(app)
judge_command.register(app)
teacher_command.register(app)
traces_command.register(app)
plan_command.register(app)
preflight_command.register(app)
ablate_command.register(app)
compare_command.register(app)
decontaminate_command.register(app)
benchmarks_command.register(app)


def main() -> None:
    """Entry point. What the user can mend is one line and exit code 2; a spent budget is one line and 3."""
    try:
        _run()
    except SystemExit as stopped:
        if is_rank():
            end(stopped.code)
        raise


def _run() -> None:
    try:
        app()
    except UserError as error:
        print(_told(str(error)), file=sys.stderr)
        sys.exit(2)
    except StoppedError as error:
        print(error, file=sys.stderr)
        sys.exit(STOPPED)
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            print("stopped; the same command resumes", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{MENDABLE[error.errno]}", file=sys.stderr)
        sys.exit(2)


def _told(error: str) -> str:
    """All of it to a file or a pipe; on a terminal no more lines than one screen."""
    lines = error.splitlines()
    if not sys.stderr.isatty() or len(lines) <= SCREEN:
        return error
    return "\n".join([*lines[:SCREEN], f"... and {len(lines) - SCREEN:,} more lines: 2> errors.txt writes them all"])


if __name__ == "__main__":
    main()
