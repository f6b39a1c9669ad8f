"""`python -m lib.config apply profiles/NAME.yaml` merges a profile into params.yaml."""

import sys
from pathlib import Path

from lib.config.errors import on_the_command_line
from lib.config.profiles import apply_profile

if len(sys.argv) != 3 or sys.argv[1] != "apply":
    sys.exit("usage: python -m lib.config apply profiles/NAME.yaml")
with on_the_command_line():
    apply_profile(Path(sys.argv[2]))
