"""``python -m latentclap.train CONFIG``; for several processes ``accelerate launch -m latentclap.train CONFIG``."""

import sys

from latentclap.launch import main

sys.exit(main())
