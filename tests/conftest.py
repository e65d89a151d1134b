"""One thread for every test, and for the processes that tests start: tiny networks on busy cores crawl on more."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
