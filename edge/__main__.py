"""The command `edge`, also as `python -m edge`."""

import contextlib
import os
import signal
import sys
import threading


def main() -> int:
    """Run the command line; `edge run` keeps its signals from the first moment on."""
    if sys.argv[1:2] == ["run"]:
        # Imports take seconds on a board, and a signal would end the process: it stays pending for the daemon.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from edge.cli.main import main as run_command  # noqa: PLC0415 -- after the signals

    code = run_command()
    if any(thread.daemon for thread in threading.enumerate()):
        # Abandoned in a library: if that returned while the interpreter ends, it would abort the process.
        with contextlib.suppress(OSError):  # its reader may have left
            sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
