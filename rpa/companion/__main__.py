"""The commands behind `make figures`, `make run` and the others: `python -m rpa.companion --help`.

Each option can also be given by the environment variable in capitals, which is how Make passes them on unchanged.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import yaml
from joblib import cpu_count

from rpa import _files, companion
from rpa.companion.run import PROFILES, run_all, stem_of
from rpa.companion.run import run as run_notebook

PROFILE = click.option("--profile", type=click.Choice(PROFILES), default="full", envvar="PROFILE", show_default=True)
NB = click.option("--nb", required=True, envvar="NB", help="the notebook: its stem or number")


@click.group(help=__doc__.splitlines()[0])
def main() -> None:
    pass


@main.command()
@PROFILE
@click.option("--jobs", type=click.IntRange(1), envvar="JOBS", help="notebooks at a time (cores, at most 4)")
def figures(profile: str, jobs: int | None) -> None:
    """Run the notebooks whose results are out of date, into build/<profile>; verdicts and agreement."""
    failures = run_all(profile, jobs)
    folder, shown = _files.build(profile), os.path.relpath(_files.build(profile))
    if failures:
        sys.exit(f"{len(failures)} notebooks failed; the results of the others are in {shown}")
    records = companion.verdicts.current_records(folder / "data" / "results")
    rows = [companion.verdicts.judge(claim, records) for claim in companion.verdicts.load_claims()]
    print(companion.verdicts.one_line(rows))
    if profile == "quick":
        print(f"quick numbers settle nothing\nnew figures: {shown}/figures")
    else:
        print(companion.comparison.compare(folder)[0])
        print(f"new figures: {shown}/figures (committed ones: figures); make accept replaces the committed results")


@main.command()
@PROFILE
def compare(profile: str) -> None:
    """Every number of build/<profile> beside the committed one; status 1 when one is off or missing."""
    summary, details, agrees = companion.comparison.compare(_files.build(profile))
    print(f"{details}\n{summary}")
    sys.exit(not agrees)


@main.command()
def accept() -> None:
    """Replace the committed figures, records and RESULTS.md by those of build/full, together or not at all."""
    changed = companion.results.accept()
    print(f"{len(changed)} files replaced" if changed else "nothing has changed")


@main.command()
@click.option("--profile", type=click.Choice(PROFILES), envvar="PROFILE", help="judge build/<profile> instead")
def verify(profile: str | None) -> None:
    """The claims beside the committed numbers; status 1 when a finished claim fails or has no current number."""
    text, good = companion.verdicts.verify(_files.build(profile) / "data" / "results" if profile else None)
    print(text)
    sys.exit(not good)


@main.command()
@click.option("--id", "name", envvar="ID", help="a claim of data/targets.toml; without, the list")
@PROFILE
def claim(name: str | None, profile: str) -> None:
    """One claim with its evidence, run again where its notebook is out of date."""
    claims = {entry["id"]: entry for entry in companion.verdicts.load_claims()}
    lines = "\n".join(f"{id:32s} {entry['paper']}, {entry['where']}" for id, entry in claims.items())
    if name is None:
        print(lines)
        return
    if name not in claims:
        raise ValueError(f"no claim is named {name!r}; there are:\n\n{lines}")
    run_notebook(stem_of(claims[name]["stem"]), profile, workers=cpu_count())
    text, good = companion.comparison.evidence(claims[name], _files.build(profile))
    print(text)
    sys.exit(not good)


@main.command()
@NB
@click.option("--p", "text", default="", envvar="P", help='"name=value name=value ..."')
@PROFILE
def run(nb: str, text: str, profile: str) -> None:
    """One notebook with other parameters, into build/runs."""
    stem = stem_of(nb)
    values = companion.sweep.checked(stem, companion.sweep.parse(text), profile)
    print(f"{stem} ({profile}) with {values or 'its own parameters'}", flush=True)
    print(companion.sweep.run_variant(stem, profile, values, workers=cpu_count()))


@main.command()
def runs() -> None:
    """The runs of `make run` and `make sweep`, and how each ended."""
    print("\n".join(companion.sweep.listed()) or "none")


@main.command()
@NB
@click.option("--grid", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, envvar="GRID")
@PROFILE
@click.option("--scheduler", envvar="SCHEDULER", help="tcp://... of a dask cluster")
def sweep(nb: str, grid: Path, profile: str, scheduler: str | None) -> None:
    """A grid of runs of one notebook, into build/runs."""
    values = yaml.safe_load(grid.read_text())
    print(companion.sweep.sweep(stem_of(nb), values, profile, scheduler=scheduler) / "sweep.csv")


@main.command()
def robustness() -> None:
    """The quick profile with five seeds: which verdicts depend on the seed?"""
    frame = companion.sweep.seeds(_files.build("robustness"))
    frame.to_csv(companion.results.ROBUSTNESS, index=False, float_format="%.6g")
    print(frame.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    try:
        # In the main thread nbclient would take Ctrl-C for itself, and end in a traceback.
        ThreadPoolExecutor(1).submit(main, prog_name="python -m rpa.companion", standalone_mode=False).result()
    except (KeyboardInterrupt, click.Abort):
        print("stopped; the same command goes on from here", file=sys.stderr)
        os._exit(130)  # the status after Ctrl-C, at once: the kernels end with this process
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, RuntimeError, OSError, yaml.YAMLError) as error:
        hint = "; RPA_BUILD names another folder than build/" if getattr(error, "errno", None) else ""
        sys.exit(f"FAILED {error}{hint}")
