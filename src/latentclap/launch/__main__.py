"""``python -m latentclap.launch CONFIG``: the same as ``python -m latentclap.train CONFIG``."""

import sys

from latentclap.launch.command import main

sys.exit(main())
