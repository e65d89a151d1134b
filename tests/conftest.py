"""One thread for every test, and for the processes that tests start: tiny networks on busy cores crawl on more."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import settings

settings.register_profile("same every time", derandomize=True)  # a test that fails today fails tomorrow
settings.load_profile("same every time")
