"""``python -m volatility3_kdump``: the same commands as ``kdump``."""

import sys

from volatility3_kdump.cli import main

sys.exit(main())
