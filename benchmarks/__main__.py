"""Entry point of ``python -m benchmarks``: see :mod:`benchmarks.bench`."""

import sys

from benchmarks.bench import main

if __name__ == "__main__":  # not in the processes that measure, which load this file, too
    sys.exit(main())
