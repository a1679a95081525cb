"""``python -m latentclap.train CONFIG``, or ``accelerate launch -m latentclap.train CONFIG`` for several processes."""

import sys

from latentclap.launch import main

sys.exit(main())
