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
from dataclasses import dataclass
from pathlib import Path

import pandas
import psutil

TRACING = dict(facts=3, draws=3)
ATTRIBUTION = dict(facts=16, corruptions=3)
STEPS = 4  # of an edit of the fact-lookup set
CONTENDERS = {
    "causal tracing": ("ours", "plain loop"),
    "attribution patching": ("ours", "transformer_lens", "nnsight"),
    "training": ("ours", "fast", "plain loop"),
}
TOLERANCE = 1e-4  # in probability for tracing, in logits for attribution, in nats for training
OF_FAST = 0.02  # the same for products with bfloat16 factors (`model.matmul: fast`)
KEYS = ["id", "kind", "layer", "head"]
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Inputs:
    """What every contender is given: the first task of params.yaml as the pipeline left it."""

    loaded: object
    task: str
    settings: object
    facts: dict
    split: object
    forms: dict

    @staticmethod
    def load() -> Inputs:
        from lib import config
        from lib.facts.formats import load_training
        from lib.facts.records import load_facts
        from lib.model.loading import load_model
        from lib.store import Store

        settings, store = config.load(), Store("data")
        task = next(iter(settings.tasks))
        folder = store.find("facts", task, settings.seeds[0])
        facts, split = load_facts(folder)
        loaded = load_model(settings.model.but(device="cpu"))
        return Inputs(loaded, task, settings, facts, split, load_training(folder))

    def cases(self, count: int):
        """The first `count` facts to edit, to be patched."""
        from lib.localize.cases import Cases

        chosen = [self.facts[i] for i in self.split.forget[:count]]
        return Cases.of(self.loaded.tokenizer, self.forms, chosen)

    def nodes(self) -> list:
        """Every head and MLP."""
        from lib.model.nodes import heads_and_mlps

        return heads_and_mlps(self.loaded.model)


def work(method: str, contender: str, target: Path) -> dict:
    """Run one contender once for its scores and time, once for its operations."""
    inputs = Inputs.load()
    run, operations = METHODS[method](contender, inputs)
    sum(p.sum().item() for p in inputs.loaded.model.parameters())  # bring them into memory
    rate = _achievable()
    with _memory() as memory:
        started = time.perf_counter()
        rows = run()
        seconds = time.perf_counter() - started
    rows.sort_values(KEYS)[[*KEYS, "value"]].to_csv(target)
    return {
        "seconds": seconds,
        "memory_mib": max(memory) - memory[0],
        "gflop": operations(),
        "achievable_gflops": rate,
    }


def tracing(contender: str, inputs: Inputs):
    """(run, operations) of exact causal tracing."""
    cases, nodes = inputs.cases(TRACING["facts"]), inputs.nodes()

    def run_for(some):
        return trace(contender, inputs.loaded, cases, some)

    def operations() -> float:
        if contender == "ours":
            return _operations(lambda: run_for(nodes))
        return _continued(run_for, nodes)

    return lambda: run_for(nodes), operations


def trace(contender: str, loaded, cases, nodes) -> pandas.DataFrame:
    """Rows (*KEYS, value): the answer's probability with each node restored."""
    from bench import plain
    from lib.localize import tracing

    run = tracing.trace if contender == "ours" else plain.trace
    rows = run(loaded.model, cases, nodes, 3.0, TRACING["draws"], 0)
    return rows.rename(columns={"p_restored": "value"})


def attribution(contender: str, inputs: Inputs):
    """(run, operations) of attribution patching."""
    cases, nodes = inputs.cases(ATTRIBUTION["facts"]), inputs.nodes()

    def run():
        return attribute(contender, inputs.loaded, cases, nodes)

    return run, lambda: _operations(run)


def attribute(contender: str, loaded, cases, nodes) -> pandas.DataFrame:
    """Rows (*KEYS, value): the estimated change of each logit difference."""
    from bench import recipes
    from lib.localize import attribution, corruption

    words = corruption.plain_tokens(loaded.tokenizer)
    arguments = cases, nodes, words, ATTRIBUTION["corruptions"], 0
    if contender == "ours":
        rows = attribution.attribute(loaded.model, *arguments)
    else:
        recipe = {"transformer_lens": recipes.transformer_lens, "nnsight": recipes.with_nnsight}
        rows = recipe[contender](loaded, *arguments)
    return rows.rename(columns={"score": "value"})


def training(contender: str, inputs: Inputs):
    """(run, operations) of the first steps of the edit of the fact-lookup set."""
    from lib.edit.train import EditData
    from lib.facts import text
    from lib.model.components import load_set
    from lib.store import Store

    changed, kept = (
        [inputs.facts[i] for i in ids] for ids in (inputs.split.forget, inputs.split.retain_train)
    )
    seed, store = inputs.settings.seeds[0], Store("data")
    passages = text.load(store.find("text"))["train"]
    data = EditData.of(inputs.loaded.tokenizer, changed, kept, passages)
    chosen = load_set(store, inputs.task, "fact-lookup", seed)
    settings = inputs.settings.edit.pairs()[0].but(max_steps=STEPS)

    def run():
        return train(contender, inputs.loaded, chosen, data, settings, seed)

    return run, lambda: _operations(run)


def train(contender: str, loaded, chosen, data, settings, seed: int) -> pandas.DataFrame:
    """Rows (*KEYS, value): each term of the loss before each step."""
    from bench import plain
    from lib.edit.train import train
    from lib.model.matmul import set_matmul

    if contender != "plain loop":
        set_matmul("fast" if contender == "fast" else "exact")
        rows = train(loaded.model, chosen, data, settings, seed).log
        set_matmul("exact")
    else:
        rows = plain.train(loaded.model, chosen, data, settings, seed)
    rows = rows.rename(columns={"step": "id"})[["id", "edit", "retain", "text"]]
    return rows.melt("id", var_name="kind").assign(layer=0, head=-1)


METHODS = {"causal tracing": tracing, "attribution patching": attribution, "training": training}


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


def _operations(run) -> float:
    """10^9 floating-point operations of the matrix products of `run()`."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def _continued(run_for, nodes: list) -> float:
    """Operations of `run_for(nodes)` where every node takes the same passes: two tell the rest."""
    one, two = (_operations(lambda n=n: run_for(nodes[:n])) for n in (1, 2))
    return one + (len(nodes) - 1) * (two - one)


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
                allowed = OF_FAST if name == "fast" else TOLERANCE
                if not measured["largest_difference"] <= allowed:
                    sys.exit(
                        f"{method}: scores of ours and of {name} differ by "
                        f"{measured['largest_difference']:.2g}, more than {allowed}"
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
    """Seconds and memory of every contender, each bar with its number."""
    import matplotlib.pyplot as plt

    from lib.figures.style import COLORBLIND

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    labels = [f"{r.method}: {r.contender}" for r in table.itertuples()]
    colors = [COLORBLIND[0] if r.contender == "ours" else "0.6" for r in table.itertuples()]
    columns = {"seconds": "seconds", "memory_mib": "memory above the model, MiB"}
    for axis, (column, words) in zip(axes, columns.items()):
        bars = axis.barh(labels, table[column], color=colors)
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set(xscale="log", xlim=(1, 4 * table[column].max()), xlabel=words)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[0].invert_yaxis()
    gain = table.set_index(["method", "contender"]).times_ours
    figure.suptitle(
        f"Exact causal tracing runs {gain['causal tracing', 'plain loop']:.0f} times faster than "
        f"one pass per node and draw,\na step of training {gain['training', 'plain loop']:.1f} "
        "times faster than a padded batch (logarithmic axes)",
        fontsize=10,
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
