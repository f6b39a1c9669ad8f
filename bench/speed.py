"""Time and memory of localization, ours against the plain loop and the libraries' recipes.

`make bench` (after `make repro`) runs every contender in a process of its own, on the same facts,
checks that all give the same scores, and writes bench/speed.csv and bench/speed.png. How much of
the machine is used is floating-point operations per second over those of a large matrix product
timed in the same process.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas
import psutil

TRACING = dict(facts=3, draws=3)
ATTRIBUTION = dict(facts=16, corruptions=3)
CONTENDERS = {
    "causal tracing": ("ours", "plain loop"),
    "attribution patching": ("ours", "transformer_lens", "nnsight"),
}
TOLERANCE = 1e-4  # in probability for tracing, in logits for attribution
KEYS = ["id", "kind", "layer", "head"]
FOLDER = Path(__file__).parent


def work(method: str, contender: str, target: Path) -> dict:
    """Run one contender once for its scores and time, once for its operations."""
    from lib import config, models, paths
    from lib.facts.records import load_facts
    from lib.facts.tasks import catalogue
    from lib.localize.nodes import Cases, heads_and_mlps

    settings = config.load()
    task = next(iter(settings.tasks))
    formats = catalogue(settings.task(task))
    facts, split = load_facts(paths.facts(task, settings.seeds[0]))
    loaded = models.load(settings.model.name, "cpu")
    wanted = TRACING if method == "causal tracing" else ATTRIBUTION
    chosen = [facts[i] for i in split.forget[: wanted["facts"]]]
    forms, nodes = formats.forms(formats.training), heads_and_mlps(loaded.model)
    cases = Cases.of(loaded.tokenizer, forms, chosen)

    def run_for(some):
        return _runner(method, contender, loaded, cases, some)

    run = run_for(nodes)
    sum(p.sum().item() for p in loaded.model.parameters())  # bring the weights into memory
    rate = _achievable()
    with _memory() as memory:
        started = time.perf_counter()
        rows = run()
        seconds = time.perf_counter() - started
    value = "p_restored" if method == "causal tracing" else "score"
    rows.sort_values(KEYS)[[*KEYS, value]].rename(columns={value: "value"}).to_csv(target)
    return {
        "seconds": seconds,
        "memory_mib": max(memory) - memory[0],
        "gflop": _operations(run_for, nodes, sample=contender == "plain loop"),
        "achievable_gflops": rate,
    }


def _runner(method: str, contender: str, loaded, cases, nodes):
    from lib.localize import attribution, corruption, tracing

    if method == "causal tracing":
        from bench import plain

        trace = tracing.trace if contender == "ours" else plain.trace
        return lambda: trace(loaded.model, cases, nodes, 3.0, TRACING["draws"], 0)
    words = corruption.plain_tokens(loaded.tokenizer)
    arguments = cases, nodes, words, ATTRIBUTION["corruptions"], 0
    if contender == "ours":
        return lambda: attribution.attribute(loaded.model, *arguments)
    from bench import recipes

    recipe = {"transformer_lens": recipes.transformer_lens, "nnsight": recipes.with_nnsight}
    return lambda: recipe[contender](loaded, *arguments)


def _achievable() -> float:
    """GFLOP/s of a large float32 matrix product: best of five."""
    import torch

    a, b, times = torch.randn(3000, 3000), torch.randn(3000, 3000), []
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 3000**3 / min(times) / 1e9


@contextmanager
def _memory():
    """MiB this process holds, at the start and then every few milliseconds of what runs inside."""
    gc.collect()
    if sys.platform == "linux":  # memory freed earlier would be used again unseen
        with suppress(AttributeError):  # other C libraries than glibc
            ctypes.CDLL(None).malloc_trim(0)
    process, done = psutil.Process(), threading.Event()
    found = [process.memory_info().rss / 2**20]

    def watch():
        while not done.wait(0.005):
            found.append(process.memory_info().rss / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def _operations(run_for, nodes: list, sample: bool) -> float:
    """10^9 floating-point operations of the matrix products of `run_for(nodes)`.

    sample: every node takes the same passes, so those of two nodes tell the rest.
    """
    if sample:
        one, two = (_operations(run_for, nodes[:n], False) for n in (1, 2))
        return one + (len(nodes) - 1) * (two - one)
    from torch.utils.flop_counter import FlopCounterMode

    run = run_for(nodes)
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def compare() -> pandas.DataFrame:
    """Run all contenders one after another and check that their scores agree."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method, names in CONTENDERS.items():
            reference = None
            for name in names:
                target = Path(folder) / "scores.csv"
                command = [sys.executable, "-m", "bench.speed", method, name, str(target)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{method}, {name} failed: {done.stderr.strip().splitlines()[-1]}")
                measured = json.loads(done.stdout.splitlines()[-1])
                values = pandas.read_csv(target).value
                reference = values if reference is None else reference
                measured["largest_difference"] = float((values - reference).abs().max())
                if not measured["largest_difference"] <= TOLERANCE:
                    sys.exit(
                        f"{method}: scores of ours and of {name} differ by "
                        f"{measured['largest_difference']:.2g}, more than {TOLERANCE}"
                    )
                rows.append({"method": method, "contender": name} | measured)
                print(method, "|", name, "|", f"{measured['seconds']:.1f} s", flush=True)
    table = pandas.DataFrame(rows)
    ours = table[table.contender == "ours"].set_index("method")
    table["times_ours"] = table.seconds / table.method.map(ours.seconds)
    table["memory_of_ours"] = table.method.map(ours.memory_mib) / table.memory_mib
    table["share_of_achievable"] = table.gflop / table.seconds / table.achievable_gflops
    return table


def draw(table: pandas.DataFrame):
    """Seconds and memory of every contender."""
    import matplotlib.pyplot as plt

    from lib.figures import COLORBLIND

    figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True)
    labels = [f"{r.method}: {r.contender}" for r in table.itertuples()]
    colors = [COLORBLIND[0] if r.contender == "ours" else "0.6" for r in table.itertuples()]
    for axis, column, words in zip(
        axes, ("seconds", "memory_mib"), ("seconds", "memory above the model, MiB")
    ):
        axis.barh(labels, table[column], color=colors)
        axis.set(xscale="log", xlabel=words)
    axes[0].invert_yaxis()
    gain = table.set_index(["method", "contender"]).times_ours["causal tracing", "plain loop"]
    figure.suptitle(
        f"Exact causal tracing runs {gain:.0f} times faster than one pass per node and draw"
    )
    figure.tight_layout()
    return figure


def main() -> None:
    """Compare, print, write."""
    table = compare()
    table.to_csv(FOLDER / "speed.csv", index=False, float_format="%.4g")
    draw(table).savefig(FOLDER / "speed.png", dpi=130, bbox_inches="tight")
    print(table.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(work(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
