"""One second of audio at 200 sample rates drawn from 4,000 to 400,000 Hz: how long reading takes, and how much memory.

    python -m benchmarks.sample_rates

Exit code 1 where a rate takes 2 s or more, or the process 1 GB or more.
"""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from w2v.audio import read_audio

RATES, SEED = 200, 0
MOST_SECONDS, MOST_BYTES = 2.0, 1e9


def main() -> int:
    rng = random.Random(SEED)
    rates = [rng.randint(4_000, 400_000) for _ in range(RATES)]
    taken: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.wav"
        for rate in rates:
            soundfile.write(file, np.sin(np.arange(rate) * (2 * np.pi * 440 / rate)), rate)
            start = time.perf_counter()
            read_audio(file)
            taken.append((time.perf_counter() - start, rate))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, rate = max(taken)
    median = sorted(taken)[RATES // 2][0]
    print(f"{RATES} rates: median {median:.3f} s, at most {seconds:.2f} s ({rate} Hz); peak memory {peak / 1e6:.0f} MB")
    return int(seconds >= MOST_SECONDS or peak >= MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
