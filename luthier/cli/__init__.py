"""The command line. Heavy packages are imported by the verb that needs them, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys

TRACEBACK = "LUTHIER_TRACEBACK"
"""Set to 1, an error that luthier did not foresee shows where it came from."""


def main() -> None:
    """Entry point: run a verb and exit with 0 ok, 1 failure, 2 bad input, 3 gate refused."""
    from luthier.cli.app import app
    from luthier.errors import LuthierError
    from luthier.redaction import PROCESS

    PROCESS.guard_streams()
    try:
        app(standalone_mode=True)
    except LuthierError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep the interpreter's own flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        first_line = next(iter(str(error).splitlines()), "")
        print(
            f"error: unexpected {type(error).__name__}: {first_line} (a fault of luthier's: set {TRACEBACK}=1 and run "
            "again to see where)",
            file=sys.stderr,
        )
        sys.exit(1)
