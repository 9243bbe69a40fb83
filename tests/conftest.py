"""Settings of the whole suite."""

import os

# Most of the model's test time is LLVM optimising programs that run once: without it the same tests take about 0.6 of
# the time. XLA's own passes still run; benchmarks and the pipelines of users keep the default.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
