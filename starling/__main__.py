"""`python -m starling`, where the command is not on the PATH."""

import sys

from starling.cli import main

sys.exit(main())
