"""The command line `secateur`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from secateur import __version__, paths
from secateur.errors import InputError

MISTAKE, FAILURE = 2, 1  # exit codes: the user's to mend, and the system's


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit code."""
    asked = _parser().parse_args(words)
    try:
        return int(asked.run(asked))
    except InputError as error:
        return _say(str(error), MISTAKE)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        return _say(str(error), FAILURE)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _score(asked: argparse.Namespace) -> int:
    from secateur.row_files import row_batches, writing_scores
    from secateur.scoring import Scorer

    scorer = Scorer(asked.model, asked.artifact, asked.threshold, asked.threads)
    rows = anomalies = 0
    with writing_scores(asked.output) as write:
        for scores in scorer.stream(row_batches(asked.rows, scorer.select, asked.batch)):
            write(scores)
            rows += len(scores.anomaly)
            anomalies += int(scores.anomaly.sum())
    sys.stderr.write(
        f"{rows:,} rows, {anomalies:,} of them anomalies: error above {scorer.threshold:.6g}\n"
    )
    return 0


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="secateur", description="Shrinks Keras autoencoders and proves that quality held."
    )
    parser.add_argument("--version", action="version", version=f"secateur {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser(
        "score",
        help="score rows with a published model",
        description="Score rows with a published model, its scaling and its threshold: a "
        "reconstruction error and a decision for each, in the rows' order.",
        epilog="Exit codes: 0 all is well, 1 the system failed, 2 something given cannot be used.",
    )
    score.set_defaults(run=_score)
    score.add_argument(
        "rows",
        metavar="ROWS",
        help="an .npy, .csv or .parquet file, or - for CSV on standard input",
    )
    score.add_argument(
        "-m", "--model", default=str(paths.CHAMPION), metavar="FOLDER",
        help="the published model (default: %(default)s)",
    )  # fmt: skip
    score.add_argument(
        "-o", "--output", default="-", metavar="FILE",
        help="a .csv or .parquet file, or - for CSV on standard output (the default)",
    )  # fmt: skip
    score.add_argument(
        "-a", "--artifact", metavar="NAME",
        help="which LiteRT file to run: float32, int8 … (default: the one that the guard judged)",
    )  # fmt: skip
    score.add_argument(
        "-t", "--threshold", type=float, metavar="ERROR",
        help="decide by this reconstruction error instead of the stored threshold",
    )  # fmt: skip
    score.add_argument(
        "-b", "--batch", type=_positive, default=4096, metavar="N",
        help="rows in memory at a time (default: %(default)s); 1 answers each row of a live stream",
    )  # fmt: skip
    score.add_argument(
        "--threads", type=_positive, default=1, metavar="N",
        help="threads that LiteRT may use (default: %(default)s)",
    )  # fmt: skip
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, allowed: a whole number from 1 up")
    return number
