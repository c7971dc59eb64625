"""How good the recommendations are, beside what people would use instead, on any shop's own data.

`python -m benchmarks.quality --help` says how to measure, `python -m benchmarks.simulated --help` how to get
a simulated shop's data to measure on. Nothing outside this folder imports it.
"""

import os

# Where it is set, every process compiles our modules anew, but not the libraries'.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
