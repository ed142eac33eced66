"""What `vqcodec doctor` prints: a row for each configuration."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vqcodec.evaluation.exactness import MISMATCH, NOT_AVAILABLE, OK, Diagnosis

__all__ = ["print_table"]

STYLES = {OK: "green", MISMATCH: "bold red", NOT_AVAILABLE: "dim"}
DIGITS = 12  # of a hash, so that the table fits 80 columns


def print_table(diagnosis: Diagnosis) -> None:
    """Put the table to standard output."""
    table = Table("configuration", "hash", "", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for check in diagnosis.checks:
        state = diagnosis.state(check)
        found = check.hash[:DIGITS] if check.hash else check.note
        table.add_row(check.configuration, Text(found), Text(state, STYLES[state]))
    Console().print(table)
