"""Any picture that a user has <-> arrays of 8-bit samples. Imports no torch."""
