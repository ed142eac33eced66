"""The command `vqcodec`, which is also `python -m vqcodec`."""

import sys

__all__ = ["main"]


def main() -> None:
    try:
        from vqcodec.cli import app  # takes a moment, in which Ctrl-C is no bug either

        app(prog_name="vqcodec")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
