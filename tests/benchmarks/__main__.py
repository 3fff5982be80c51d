"""The command: `python -m tests.benchmarks --help`."""

import argparse
import sys
from pathlib import Path

from .goals import goals
from .measure import FULL, QUICK, SMOKE, Bench
from .report import as_json, from_json, svg, text_report


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Compare this client with its peers (extra: `bench`).",
        epilog="Takes about 20 minutes; run it on an otherwise idle machine.",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="small counts: noisy figures")
    sizes.add_argument("--smoke", action="store_true", help="tiny counts: meaningless figures")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="sections (paced, burst, streams, long, chats, imports, construction) and clients "
        "(ours, limit-sync, …), or parts of their names",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="measure nothing: load a --json file"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print each run's figures")
    args = parser.parse_args()

    def say(line: str) -> None:
        if args.verbose or not line.startswith(" "):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    if args.load:
        results = from_json(args.load.read_text("utf-8"))
    else:
        size = SMOKE if args.smoke else QUICK if args.quick else FULL
        results = Bench(size, args.only, say).run()
    found = goals(results)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(f"{text_report(results, found)}\n")
    if args.json:
        args.json.write_text(as_json(results, found), "utf-8")
    if args.svg:
        args.svg.write_text(svg(results), "utf-8")


if __name__ == "__main__":
    main()
