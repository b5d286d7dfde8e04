"""Times ours and its peers on a GPU: linear layers of three models, all widths, 1 to 4096 tokens.

    python -m benchmarks.gpu                     # 480 seconds; benchmarks/results/DEVICE/gpu.json
    python -m benchmarks.gpu --smoke             # one shape, a few types, a minute
    python -m benchmarks.gpu --models llama --dtypes u4,e4m3 --m 1,16 --peers tilus,cublas
    python -m benchmarks.gpu --check             # each peer on small problems; nothing is timed
    python -m benchmarks.gpu --list              # the plan, in its order; needs no GPU
    python -m benchmarks.gpu --readme            # README.md from the committed results; needs none

The most important items come first, and the budget cuts the rest: after each item the JSON on disk
is complete and says what was not reached. README.md beside this says what is in it.

The surprise: nothing that is wrong is timed. Each peer's result is checked against float64 first;
one that is wrong, or raises, is an error in the JSON and the run goes on without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import plots, report, shapes
from benchmarks.expect import Rates, code_type
from benchmarks.machine import DeviceLost, Machine, machine_at_hand
from benchmarks.measure import Bench
from benchmarks.peers import PEERS, Peer
from benchmarks.provenance import commit
from benchmarks.readme import README
from benchmarks.record import NAME, RESULTS, SCHEMA, Log, Row, folder_of, versions
from benchmarks.record import write as write_log
from benchmarks.shapes import Item, Layer
from benchmarks.static import words
from tilus.cli.arguments import positives
from tilus.errors import TilusError

BUDGET, SMOKE_BUDGET = 480.0, 60.0  # seconds
CHECKED_LAYER, CHECKED_TOKENS = Layer("small", 512, 1024), (1, 16, 64)
Show = Callable[[str], None]


# ---- a run ---------------------------------------------------------------------------------------


@dataclass
class Run:
    """A plan on a machine, and the log of it.

    Attributes:
        path: of the JSON.
        budget: seconds, from `started` on.
        clock: seconds.
        show: is told a line for each item.
    """

    machine: Machine
    peers: Mapping[str, Peer]
    plan: Sequence[Item]
    path: Path
    budget: float
    command: str
    clock: Callable[[], float] = time.perf_counter
    show: Show = lambda line: None
    started: float | None = None
    bench: Bench = field(init=False)
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock() if self.started is None else self.started
        missing, here = roll_call(self.peers)
        self.bench = Bench(self.machine, here, clock=self.clock)
        self.log = self.new_log(missing)

    def new_log(self, missing: Mapping[str, str | None]) -> Log:
        state = self.machine.state()
        rates = None if self.machine.figures is None else Rates.of(self.machine.figures)
        peers = {
            name: {"missing": why, "version": self.peers[name].version() if why is None else None}
            for name, why in missing.items()
        }
        return {
            **({"fixture": True} if self.machine.fixture else {}),
            "schema": SCHEMA,
            "device": self.machine.name,
            "driver": state.get("driver_version", "not known"),
            "versions": versions(),
            "commit": commit("benchmarks"),
            "command": self.command,
            "clocks": {"before": state, "after": state},
            "l2_bytes": self.machine.l2_bytes,
            "rates": None if rates is None else dataclasses.asdict(rates),
            "budget_s": self.budget,
            "elapsed_s": 0.0,
            "stopped": None,
            "peers": peers,
            "refused": self.bench.refused,
            "model_error": report.model_error({"rows": []}),
            "plots": [],
            "rows": self.bench.rows,
            "errors": self.bench.errors,
            "not_reached": [str(item) for item in self.plan],
        }

    @property
    def elapsed(self) -> float:
        assert self.started is not None
        return self.clock() - self.started

    def run(self) -> Log:
        """Item by item, as long as another one like the last fits the budget."""
        write_log(self.path, self.log)
        last = 0.0
        for number, item in enumerate(self.plan):
            before = self.elapsed
            if before + last > self.budget:
                break
            try:
                rows = self.bench.measure(item)
            except DeviceLost as error:
                self.log["stopped"] = f"at {item}: {error}"
                self.save(number)
                raise
            self.save(number + 1)
            self.show(progress(item, rows, self.elapsed))
            last = self.elapsed - before
        return self.log

    def save(self, reached: int) -> None:
        """`reached` items are done with, well or badly."""
        self.log["not_reached"] = [str(item) for item in self.plan[reached:]]
        self.log["clocks"]["after"] = self.machine.state()
        self.log["elapsed_s"] = self.elapsed
        self.log["model_error"] = report.model_error(self.log)
        write_log(self.path, self.log)


def progress(item: Item, rows: Sequence[Row], elapsed: float) -> str:
    """A line: the time of each peer.

    >>> progress("Llama o, u4", [{"kernel": "tilus", "median_us": 14.25}], 3.0)
    '   3 s  Llama o, u4: tilus 14.2'
    """
    found = ", ".join(f"{row['kernel']} {row['median_us']:.1f}" for row in rows)
    return f"{elapsed:4.0f} s  {item}: {found or 'nothing timed'}"


# ---- the command ---------------------------------------------------------------------------------


def seconds(text: str) -> float:
    found = float(text)
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError("a budget is a positive number of seconds")
    return found


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help=f"when to stop (default: {BUDGET:.0f}, or {SMOKE_BUDGET:.0f} with --smoke)",
    )
    parser.add_argument("--smoke", action="store_true", help="one shape, a few types, M 1, 16, 256")
    parser.add_argument("--models", type=words, metavar="NAME,...", help="their names begin so")
    parser.add_argument("--dtypes", type=words, metavar="T,...", help="of weights: u4, i6, e3m2")
    parser.add_argument("--m", type=positives, metavar="M,...", help="numbers of tokens")
    parser.add_argument("--peers", type=words, metavar="NAME,...", help=", ".join(PEERS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="in place of benchmarks/results/..")
    parser.add_argument(
        "--check", action="store_true", help="hold each peer against float64 on small problems"
    )
    parser.add_argument("--list", action="store_true", help="print the plan and do nothing")
    parser.add_argument(
        "--readme", action="store_true", help="write README.md from results, and do nothing else"
    )
    return parser.parse_args(argv)


def plan_of(arguments: argparse.Namespace) -> list[Item]:
    """Raises: TilusError for an unknown model or type."""
    smoke = arguments.smoke
    dtypes = arguments.dtypes or (shapes.SMOKE_TYPES if smoke else shapes.TYPES)
    tokens = arguments.m or (shapes.SMOKE_TOKENS if smoke else shapes.TOKENS)
    models = shapes.MODELS
    if arguments.models or smoke:
        models = shapes.models_named(arguments.models or (shapes.LLAMA.name,))
    for dtype in dtypes:
        code_type(dtype)
    found = shapes.plan(models, tuple(dict.fromkeys(dtypes)), tuple(dict.fromkeys(tokens)))
    return [item for item in found if item.layer == shapes.LAYERS[0]] if smoke else found


def peers_of(names: Sequence[str] | None) -> dict[str, Peer]:
    """In the order of PEERS. Raises: TilusError for an unknown one."""
    unknown = set(names or ()) - set(PEERS)
    if unknown:
        raise TilusError(
            "this is no peer of the benchmark",
            found=", ".join(sorted(unknown)),
            expected=", ".join(PEERS),
        )
    return {name: peer for name, peer in PEERS.items() if names is None or name in names}


def roll_call(peers: Mapping[str, Peer]) -> tuple[dict[str, str | None], dict[str, Peer]]:
    """Why each peer is missing, None for those that are not; and those."""
    missing = {name: peer.missing() for name, peer in peers.items()}
    return missing, {name: peer for name, peer in peers.items() if missing[name] is None}


def show_plan(plan: Sequence[Item], peers: Mapping[str, Peer]) -> str:
    """Each item under its stage, and who takes part."""
    lines, stage = [], -1
    for item in plan:
        if (now := shapes.stage_of(item)) != stage:
            stage = now
            lines.append(f"{shapes.stage_name(stage)}:")
        lines.append(f"  {item}")
    told = [f"{name}: {why or 'takes part'}" for name, why in roll_call(peers)[0].items()]
    return "\n".join([*lines, f"{len(plan)} items", *told])


def check_peers(arguments: argparse.Namespace) -> bool:
    """Whether all peers are right on small problems; what they compile for all is compiled then.

    Raises: TilusError without a GPU, or when it is lost.
    """
    missing, here = roll_call(peers_of(arguments.peers))
    bench = Bench(machine_at_hand(), here)
    for dtype in dict.fromkeys(arguments.dtypes or shapes.TYPES):
        code_type(dtype)
        for m in dict.fromkeys(arguments.m or CHECKED_TOKENS):
            item = Item("-", (CHECKED_LAYER,), dtype, m)
            for contender, error, seconds in bench.tried(item):
                told = bench.errors[-1]["error"] if error is None else f"{error:.2f} times float32"
                line = f"{contender.name}, {dtype}, m = {m}: {told}, {seconds:.1f} s"
                print(line.replace("\n", " "), flush=True)
    for name, why in missing.items():
        if why is not None:
            print(f"{name}: {why}")
    return not bench.errors


def folder_for(machine: Machine, smoke: bool) -> Path:
    """A smoke run does not take the place of a whole one."""
    folder = RESULTS / folder_of(machine.name)
    return folder / "smoke" if smoke else folder


def measure(arguments: argparse.Namespace, plan: Sequence[Item], started: float) -> Log:
    """Raises: TilusError without a GPU, or when it is lost."""
    machine = machine_at_hand()
    folder = arguments.out or folder_for(machine, arguments.smoke)
    budget = arguments.budget or (SMOKE_BUDGET if arguments.smoke else BUDGET)
    command = " ".join(["python -m benchmarks.gpu", *arguments.command])
    run = Run(
        machine, peers_of(arguments.peers), plan, folder / NAME, budget, command,
        show=partial(print, file=sys.stderr, flush=True), started=started,
    )  # fmt: skip
    return finish(run.run(), folder)


def finish(log: Log, folder: Path, *, allow_fixture: bool = False) -> Log:
    """Draw the plots, where they can be, and name them in the log."""
    try:
        log["plots"] = plots.write_plots(log, folder, allow_fixture=allow_fixture)
    except TilusError as error:
        print(error, file=sys.stderr)
    write_log(folder / NAME, log)
    return log


def write_readme(readme: Path = README, results: Path = RESULTS) -> None:
    """Raises: TilusError for a fixture among the results."""
    text = report.section(report.committed_logs(results))
    readme.write_text(report.SECTION.filled(readme.read_text(), text))


def main(argv: Sequence[str] | None = None) -> int:
    started = time.perf_counter()
    arguments = parse_arguments(argv)
    arguments.command = sys.argv[1:] if argv is None else list(argv)
    try:
        plan = plan_of(arguments)
        if arguments.readme:
            write_readme()
        elif arguments.list:
            print(show_plan(plan, peers_of(arguments.peers)))
        elif arguments.check:
            return int(not check_peers(arguments))
        else:
            print(report.tables(measure(arguments, plan, started)))
    except TilusError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
