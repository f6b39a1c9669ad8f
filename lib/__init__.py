"""Helper library of the compendium: facts -> localize -> choose -> edit -> attack -> figures.

Section numbers in docstrings refer to METHOD.md.

Importing it sets the number of compute threads *before* torch starts (numbers repeat exactly only
at a fixed thread count, and more threads than idle cores cost a factor of four), keeps Hugging
Face libraries from asking the network for what is already on disk, and silences their progress
bars, which would fill the executed notebooks.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
