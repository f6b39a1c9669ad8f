"""`dvc repro` on many cores, GPUs or machines: the cells of the pipeline as tasks of Dask.

    python -m scale.cluster --local 2 [--threads 1] [STAGE ...]
    python -m scale.cluster --slurm 8 --cores 4 --memory 24GB --walltime 04:00:00 [STAGE ...]

All machines see this folder under one path. The graph, what is stale and every command are DVC's
own. Each cell is three tasks of Dask, each waiting for the one before:

    check    by the coordinator, when all cells it needs are committed: is it stale? If so its
             command, with the hashes of what it reads
    run      by a worker: the command in a process group of its own
    commit   by the coordinator: what it read must have the same hashes, then dvc.lock

The coordinator is a worker of one thread in this process, which holds DVC's lock, so no two write
dvc.lock. When a worker is lost, Dask gives its cell to another one; that first ends what the old
process group has left on its machine (see `scale.worker`), deletes half outputs and begins again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import suppress

from lib import paths
from scale.worker import CELLS, CellFailed, end_cell, run

STAGES: dict[str, object] = {}  # of the coordinator's process: DVC's own stages by name


# The coordinator's tasks


def check(name: str, *needed) -> dict | None:
    """What a worker must do for a stage, None if it is up to date or DVC's cache has the result."""
    from dvc.stage.cache import RunCacheNotFoundError

    stage = STAGES[name]
    if not stage.changed():
        return None
    stage.remove_outs(ignore_remove=False, force=False)  # as DVC: they may be links to its cache
    with suppress(RunCacheNotFoundError):
        stage.repo.stage_cache.restore(stage)
        _record(stage)
        return None
    stage.save_deps()
    outs = [out.fs_path for out in stage.outs if not out.persist]
    return {"name": name, "cmd": stage.cmd, "cwd": stage.wdir, "outs": outs, "read": _read(stage)}


def commit(name: str, work: dict | None, seconds: float | None) -> tuple[str, float | None]:
    """Write a finished stage into DVC's cache and dvc.lock; returns its name and seconds (None: it
    did not run). RuntimeError if what it read changed meanwhile."""
    if work is not None:
        stage = STAGES[name]
        stage.save_deps()
        now = _read(stage)
        changed = [path for path in now if now[path] != work["read"][path]]
        if changed:
            raise RuntimeError(f"{changed[0]} changed while {name} ran: run the same command again")
        _record(stage)
    return name, seconds


def _read(stage) -> dict[str, str]:
    return {str(dep): repr(dep.hash_info or getattr(dep, "info", "")) for dep in stage.deps}


def _record(stage) -> None:
    uncached = any(not out.use_cache for out in stage.outs)
    stage.save(run_cache=not uncached)
    stage.commit()
    stage.dump(update_pipeline=False)


# The whole


def submit(client, repo, targets: list[str], threads: int, gpus: int) -> dict:
    """{stage: future of its commit} of the targets and all they need (default: everything)."""
    import networkx as nx

    graph = repo.index.graph
    named = [info.stage for t in targets for info in repo.stage.collect_granular(t)]
    wanted = set(named or graph).union(*(nx.descendants(graph, s) for s in named))
    done = {}
    for stage in nx.dfs_postorder_nodes(graph):  # an edge leads to what a stage needs
        if stage not in wanted:
            continue
        name = stage.addressing
        STAGES[name] = stage
        needed = [done[other.addressing] for other in graph.successors(stage)]
        only = {"pure": False, "resources": {"coordinator": 1}}
        work = client.submit(check, name, *needed, key=f"check {name}", **only)
        cell = {"pure": False, "resources": {"cell": 1}, "key": f"run {name}"}
        ran = client.submit(run, work, threads, gpus, **cell)
        done[name] = client.submit(commit, name, work, ran, key=f"commit {name}", **only)
    return done


def follow(done: dict) -> list[str]:
    """Wait for all cells with a bar of progress; returns a sentence for each that failed."""
    from distributed import as_completed
    from tqdm.auto import tqdm

    from lib.stages.report import failure
    from lib.stages.repro import explain

    names, problems, said = {f.key: n for n, f in done.items()}, [], set()
    with tqdm(total=len(done), desc="cells", unit="cell") as bar:
        for future in as_completed(done.values()):
            bar.update()
            name = names[future.key]
            if future.status == "finished":
                _, seconds = future.result()
                bar.write(f"{name}: " + ("up to date" if seconds is None else f"{seconds:.0f} s"))
                continue
            error = future.exception()
            if str(error) not in said:  # those that wait for a failed cell fail with its error
                said.add(str(error))
                text = str(error)
                if isinstance(error, CellFailed):
                    text = explain(text, failure() if "papermill" in text else "")
                last = text.splitlines()[-1].removeprefix("error: ")
                problems.append(f"{name} or a cell it needs failed: {last}")
    return problems


def machines(wanted):
    """The Dask cluster of the command line."""
    if wanted.slurm:
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(
            cores=1,  # cells at a time in a job; each cell has --cores threads
            processes=1,
            job_cpu=wanted.cores,
            memory=wanted.memory,
            walltime=wanted.walltime,
            queue=wanted.partition,
            job_extra_directives=wanted.option,
            job_script_prologue=[f"cd {paths.ROOT}", f"export PYTHONPATH={paths.ROOT}"],
            worker_extra_args=["--resources", "cell=1"],
            log_directory=str(CELLS),
        )
        cluster.scale(jobs=wanted.slurm)
        return cluster
    from distributed import LocalCluster

    return LocalCluster(
        wanted.local, threads_per_worker=1, resources={"cell": 1}, dashboard_address=":0"
    )


def go(wanted) -> None:
    """Everything from the command line to a clean `dvc status`; exits with a sentence if not."""
    from distributed import Client, Worker
    from dvc.repo import Repo

    async def coordinator(address: str):
        return await Worker(address, nthreads=1, name="coordinator", resources={"coordinator": 1})

    logging.getLogger("distributed").setLevel(logging.ERROR)  # a lost worker is no news
    CELLS.mkdir(parents=True, exist_ok=True)
    threads = wanted.threads or (wanted.cores if wanted.slurm else 1)
    with Repo(str(paths.ROOT)) as repo, repo.lock, machines(wanted) as cluster:
        client = Client(cluster)
        worker = client.sync(coordinator, cluster.scheduler_address)
        try:
            problems = follow(submit(client, repo, wanted.stages, threads, wanted.gpus))
        finally:
            client.sync(worker.close)
            client.close()
            for name in STAGES if wanted.local else ():
                end_cell(name)
    if problems:
        sys.exit("error: " + "; ".join(problems))


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scale.cluster", description="see docs/SCALE.md"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", type=int, metavar="N", help="workers on this machine")
    where.add_argument("--slurm", type=int, metavar="N", help="jobs of Slurm, one worker each")
    parser.add_argument("--threads", type=int, help="per cell (default: 1, with Slurm --cores)")
    parser.add_argument("--gpus", type=int, default=0, help="of this machine, one per worker")
    parser.add_argument("--cores", type=int, default=2, help="of a job")
    parser.add_argument("--memory", default="8GB", help="of a job")
    parser.add_argument("--walltime", default="04:00:00", help="of a job")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--option", action="append", default=[], help="further, for sbatch")
    parser.add_argument("stages", nargs="*", help="as of `dvc repro`")
    go(parser.parse_args(arguments))


if __name__ == "__main__":
    from dvc.lock import LockError

    from lib.stages.repro import explain
    from scale.cluster import main as imported  # one module for the tasks, not `__main__`

    try:
        imported(sys.argv[1:])
    except LockError as problem:
        sys.exit(f"error: {explain(str(problem), '')}")
    except ModuleNotFoundError as problem:
        sys.exit(f"error: {problem.name} is missing: `pip install -e '.[scale]'`")
