"""Prints the table of docs/en/emulator-faults.md: `python -m bailian_apps.emulator.faults`."""

import sys

from bailian_apps.emulator.faults.table import markdown_table

if __name__ == "__main__":
    sys.stdout.write(markdown_table() + "\n")
