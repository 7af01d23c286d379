"""The command line: the questions under the same names as in Python."""
