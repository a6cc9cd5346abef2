"""The command `ringpull` from its first moment: also `python -m ringpull`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line of this process and exit."""
    # While modules load, Ctrl-C ends the process without a word; Python's way would be a traceback of the imports.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ringpull.deploy.view import streams

    streams.fill_closed_descriptors()
    streams.drop_odd_sizes()
    from ringpull.deploy import cli

    signal.signal(signal.SIGINT, handler)
    cli.main()


if __name__ == "__main__":
    main()
