"""Helper library of the compendium: facts -> localize -> choose -> edit -> attack -> figures.

Section numbers in docstrings refer to METHOD.md.

Importing it sets the number of compute threads *before* torch starts: numbers repeat exactly only
at a fixed thread count, and threads that wait by spinning for long cost a factor of up to a hundred
beside another job. It keeps Hugging Face libraries from asking the network for what is already on
disk, silences their progress bars, which would fill the executed notebooks, and lets the process
keep memory it has freed.
"""

import ctypes
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # then a waiting thread leaves its core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if sys.platform == "linux":
    # A forward pass allocates the same few megabytes again and again; handing them back to the
    # system each time costs a sixth of a training step. Other C libraries than glibc lack this.
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except AttributeError:
        pass
