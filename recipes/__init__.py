"""Commands. Each is a module: python -m recipes.NAME."""

import os
import sys

# torch's threads wait for each other at every operation. GNU's OpenMP lets a waiting thread spin 300,000 times before
# it sleeps: on a machine that others use too it burns the time that the other thread needs. With 1,000 a step is as
# fast on an idle machine, and 2.3 times as fast beside two busy processes (docs/PERFORMANCE.md). The number is read
# when torch is imported, so it is set here; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Lengths change from batch to batch, and fixed segments of a GPU's memory leave holes that none of them fits. Segments
# that grow leave none; only Linux has them. Read when torch starts, and what the user has set stays.
if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
