"""The commands behind `make figures`, `make run` and the others: `python -m rpa.companion --help`.

Each option can also be given by the environment variable in capitals, which is how Make passes them on unchanged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rpa import _files
from rpa._files import ROOT
from rpa.companion.run import PROFILES, cores, is_current, run_all, stem_of
from rpa.companion.run import run as run_notebook

PROFILE = click.option("--profile", type=click.Choice(PROFILES), default="full", envvar="PROFILE", show_default=True)
JOBS = click.option("--jobs", type=click.IntRange(1), envvar="JOBS", help="notebooks at a time (cores, at most 4)")
NB = click.option("--nb", required=True, envvar="NB", help="the notebook: its stem or number")
REFUSED, FAILED = 2, 1  # exit statuses


@click.group(help=__doc__.splitlines()[0])
def main() -> None:
    pass


@main.command()
@click.argument("stems", nargs=-1)
@PROFILE
@JOBS
def figures(stems: tuple[str, ...], profile: str, jobs: int | None) -> None:
    """Run the notebooks (default: all) whose results are out of date, into build/<profile>."""
    _figures([stem_of(name) for name in stems], profile, jobs)


@main.command()
@JOBS
def quick(jobs: int | None) -> None:
    """`figures` with little work, into build/quick."""
    _figures([], "quick", jobs)


def _figures(stems, profile, jobs):
    """Run, print one line of verdicts and one of agreement; the comparison, None for the quick profile."""
    from rpa.companion import comparison, verdicts

    failures = run_all(profile, stems, jobs)
    folder, shown = _files.build(profile), os.path.relpath(_files.build(profile))
    if failures:
        _fail(f"{len(failures)} notebooks failed; the results of the others are in {shown}")
    records = verdicts.current_records(folder / "data" / "results")
    print(verdicts.one_line([verdicts.judge(claim, records) for claim in verdicts.load_claims()]), end="")
    if profile == "quick":
        print(f"; quick numbers settle nothing\nfigures: {shown}/figures")
        return None
    judged = comparison.compare(folder)
    print(f"; {judged.summary}")
    print(f"new figures: {shown}/figures (the committed ones: figures); `make accept` replaces the committed results")
    return judged


@main.command()
@PROFILE
@JOBS
def reproduce(profile: str, jobs: int | None) -> None:
    """`figures`, then `compare`; status 1 when a number is off or missing."""
    if (judged := _figures([], profile, jobs)) is not None:
        _show(judged)


@main.command()
@PROFILE
def compare(profile: str) -> None:
    """Every number of build/<profile> beside the committed one; status 1 when one is off or missing."""
    from rpa.companion import comparison

    _show(comparison.compare(_files.build(profile)))


def _show(judged):
    print(f"{judged.details}\n{judged.summary}")
    sys.exit(0 if judged.agrees else FAILED)


@main.command()
def accept() -> None:
    """Replace the committed figures, records and README's table by those of build/full, together or not at all."""
    from rpa.companion.accept import accept

    changed = accept()
    print(f"{len(changed)} files replaced" if changed else "nothing has changed")


@main.command()
@click.option("--profile", type=click.Choice(PROFILES), envvar="PROFILE", help="judge build/<profile> instead")
def verify(profile: str | None) -> None:
    """The claims beside the committed numbers; status 1 when a finished claim fails or has no current number."""
    from rpa.companion import verdicts

    text, good = verdicts.verify(_files.build(profile) / "data" / "results" if profile else None)
    print(text)
    sys.exit(0 if good else FAILED)


@main.command()
@click.option("--id", "name", envvar="ID", help="a claim of data/targets.toml; without, the list")
@PROFILE
def claim(name: str | None, profile: str) -> None:
    """One claim with its evidence, run again where its notebook is out of date."""
    from rpa.companion import verdicts
    from rpa.companion.claim import evidence

    claims = {entry["id"]: entry for entry in verdicts.load_claims()}
    if name not in claims:
        lines = "\n".join(f"{id:32s} {entry['paper']}, {entry['where']}" for id, entry in claims.items())
        print(
            f"no claim is named {name!r}; there are:\n\n{lines}" if name else lines, file=sys.stderr if name else None
        )
        sys.exit(REFUSED if name else 0)
    stem = claims[name]["stem"]
    if not is_current(stem, profile):
        run_notebook(ROOT / "notebooks" / f"{stem}.ipynb", profile, workers=cores())
    text, good = evidence(claims[name], _files.build(profile))
    print(text)
    sys.exit(0 if good else FAILED)


@main.command()
@NB
@click.option("--p", "text", default="", envvar="P", help='"name=value name=value ..."')
@PROFILE
def run(nb: str, text: str, profile: str) -> None:
    """One notebook with other parameters, into build/runs."""
    from rpa.companion import variants

    stem = stem_of(nb)
    values = variants.checked(stem, variants.parse(text), profile)
    print(f"{stem} ({profile}) with {values or 'its own parameters'}", flush=True)
    print(variants.run_variant(stem, profile, values, workers=cores()))


@main.command()
@click.option("--clean", envvar="CLEAN", help="delete all, failed, or the run of this name")
def runs(clean: str | None) -> None:
    """What `make run` and `make sweep` have made, and how it ended."""
    from rpa.companion import variants

    lines = [f"deleted {name}" for name in variants.remove(clean)] if clean else variants.listed()
    print("\n".join(lines) or "none")


@main.command()
@NB
@click.option("--grid", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, envvar="GRID")
@PROFILE
@click.option("--scheduler", envvar="SCHEDULER", help="tcp://... of a dask cluster")
@click.option("--plot", envvar="PLOT", help='"record against parameter"')
def sweep(nb: str, grid: Path, profile: str, scheduler: str | None, plot: str | None) -> None:
    """A grid of runs of one notebook, into build/runs."""
    import pandas as pd
    import yaml

    from rpa.companion import sweep

    stem, values = stem_of(nb), yaml.safe_load(grid.read_text())
    cells = sweep.cells_of(stem, values, profile)
    shown = sweep.plotted(plot, stem, values)
    print(f"{stem} ({profile}): {len(cells)} cells", flush=True)
    folder = sweep.sweep(stem, values, profile, scheduler=scheduler)
    figure = sweep.draw(pd.read_csv(folder / "sweep.csv", dtype={"entry": str}), *shown)
    _files.replace(folder / "sweep.png", lambda temporary: figure.savefig(temporary, format="png", dpi=200))
    print(folder / "sweep.csv")


@main.command()
def robustness() -> None:
    """The quick profile with five seeds, one thread and two: which verdicts depend on them?"""
    from rpa.companion import robustness, verdicts

    robustness.run_all(_files.build("robustness"))
    frame = robustness.table(_files.build("robustness"))
    _files.replace(verdicts.ROBUSTNESS, lambda temporary: frame.to_csv(temporary, index=False, float_format="%.6g"))
    print(frame.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


@main.command()
@PROFILE
def report(profile: str) -> None:
    """Run what is out of date, then write the site: build/report/index.html."""
    from rpa.companion import site

    if failures := run_all(profile):
        _fail(f"{len(failures)} notebooks failed")
    print(site.build(profile))


@main.command()
def bundle() -> None:
    """One archive of the committed files and the executed notebooks, in build/."""
    from rpa.companion.accept import bundle

    path = bundle()
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _fail(reason):
    print(reason, file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    try:
        main(prog_name="python -m rpa.companion", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    except (RuntimeError, OSError) as error:
        print(f"FAILED {error}", file=sys.stderr)
        sys.exit(FAILED)
    except (KeyboardInterrupt, click.Abort):
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
