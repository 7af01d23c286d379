"""`python -m thalweg` is the command line, for where the `thalweg` script is not on the path."""

import sys

from thalweg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
