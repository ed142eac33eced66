"""The command `vqcodec`, which is also `python -m vqcodec`."""

import signal
import sys
import warnings

__all__ = ["main"]


def main() -> None:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # it would leave temporary files
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags in files; notes tell
    try:
        from vqcodec.cli.app import app  # takes a moment, in which Ctrl-C is no bug either
        from vqcodec.resources import wait_passively

        wait_passively()
        app(prog_name="vqcodec")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
