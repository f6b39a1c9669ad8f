"""`dvc repro`, and one sentence with the cure where it stops.

`python -m lib.stages.repro [STAGE ...]`

Nothing that was finished is lost: whatever stopped it, the same command goes on at the stage it was
in.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import deque

from lib.stages.report import failure

AGAIN = "then run the same command again: it goes on at the stage it was in"
CAUSES = {  # what stands in the output: what it means, and the cure
    r"No space left on device|Errno 28": f"the disk is full: free about 8 GiB, {AGAIN}",
    r"Unable to acquire lock|is busy, it is being": (
        "another `dvc` is running in this folder: wait until it has ended, or stop it, "
        "then run the same command again"
    ),
    r"Kernel died|DeadKernelError|exited with (-9|137)": (
        "a stage was killed, most likely for lack of memory: close other programs (about 5 GiB are "
        f"needed), {AGAIN}"
    ),
    r"cache is corrupt|CacheCorrupted|HashMismatch|hash mismatch|failed to load dir": (
        "a file of DVC's cache is damaged: delete it with `rm -r .dvc/cache .dvc/tmp`, then run "
        "the same command again: what was finished and is whole is cached anew, the rest made again"
    ),
}


def explain(output: str, stopped: str) -> str:
    """One sentence for why a run stopped; output: what it printed, stopped: the sentence of the
    notebook that stopped it, if one did."""
    for pattern, sentence in CAUSES.items():
        if re.search(pattern, output + stopped):
            return sentence
    named = re.findall(r"failed to reproduce '([^']+)'", output)
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    if said:
        return f"{said[-1].removeprefix('error: ')} (stage {named[-1]})" if named else said[-1]
    return stopped or "`dvc repro` stopped: what it printed above says where"


def main(targets: list[str]) -> None:
    """Run, and pass on what is printed; exits with the sentence if it stops."""
    command = ["dvc", "repro", *targets]
    last: deque[str] = deque(maxlen=400)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line)
    if process.returncode:
        output = "".join(last)
        sys.exit(f"error: {explain(output, failure() if 'papermill' in output else '')}")


if __name__ == "__main__":
    main(sys.argv[1:])
