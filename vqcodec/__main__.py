"""`python -m vqcodec` is the command `vqcodec`."""

from vqcodec.cli import app

if __name__ == "__main__":
    app(prog_name="vqcodec")
