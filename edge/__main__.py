"""The command `edge`, also as `python -m edge`."""

import signal
import sys


def main() -> int:
    """Run the command line; `edge run` keeps its signals from the first moment on."""
    if sys.argv[1:2] == ["run"]:
        # Imports take seconds on a board, and a signal would end the process: it stays pending for the daemon.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    from edge.cli.main import main as run_command  # noqa: PLC0415 -- after the signals

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
