"""The bytes of a `.vqc` file, and how a picture is cut into tiles. Imports no torch."""
