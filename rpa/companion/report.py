"""What a notebook leaves behind: numbers, figures and tables.

A notebook calls `use_style`, a `Recorder`, `save_figure` and `save_table`; `rpa.companion.verdicts` then judges the
claims of `data/targets.toml` by the records. Files are named after the running notebook. Every file is written in full
or not at all, holds no time stamp, and names the code, the profile and the data it came from, so that two runs of the
same code give the same bytes. What varies from run to run goes through `record_timing` only.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpa import _files
from rpa._files import ROOT, in_checkout
from rpa.companion.provenance import code_version, package_versions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ANALYTIC, MONTE_CARLO, NEUTRAL = "#1f5fa8", "#c8322b", "#767676"

# How a number may differ when the same code makes it again: by its tolerance (relative for numbers above 1), or by a
# multiple of its standard error.
VARIES = {
    "exact": "the same but for rounding",
    "deterministic": "depends on the processor and its threads only",
    "statistical": "estimated from samples",
    "gap": "the largest of many gaps to sampling, in standard errors, so estimated from samples itself",
    "retrained": "rests on weights or fits made again on this machine, so only the distribution is the same",
}
TOLERANCES = {"exact": 1e-9, "deterministic": 1e-5, "gap": 0.5}

_seen = {"profile": "full"}  # as last given to `shrink`


def shrink(profile: str, full: Any, quick: Any) -> Any:
    """`quick` in the quick profile, `full` in the full one; the profile is remembered for the records to come.

    The only way a notebook tells the profiles apart. Raises ValueError for any other profile, or for one that
    contradicts the profile the notebook is run with (RPA_PROFILE).
    """
    expected = [name for name in ("full", "quick") if os.environ.get("RPA_PROFILE", name) == name]
    if profile not in expected:
        raise ValueError(f"profile: expected {' or '.join(expected)}, as RPA_PROFILE may demand, got {profile!r}")
    _seen["profile"] = profile
    return quick if profile == "quick" else full


def running_notebook() -> Path | None:
    """The path of the notebook that runs: as `rpa.companion.run`, JupyterLab or VS Code name it; None elsewhere."""
    names = [os.environ.get("RPA_NOTEBOOK"), getattr(_shell(), "user_ns", {}).get("__vsc_ipynb_file__")]
    name = next(filter(None, [*names, os.environ.get("JPY_SESSION_NAME")]), "")
    if not name.endswith(".ipynb"):
        return None
    return Path(name) if Path(name).is_absolute() else Path.cwd() / Path(name).name  # a kernel runs beside its notebook


def output_folder() -> Path:
    """Where figures/ and data/results/ go: RPA_OUT, else build/lab of the checkout in which the notebook lies.

    A notebook outside of any checkout, or without a known path, writes to build/lab of the working directory's.
    """
    if os.environ.get("RPA_OUT"):
        return Path(os.environ["RPA_OUT"])
    place = (running_notebook() or Path.cwd() / "x").resolve().parent
    checkout = next((above for above in (place, *place.parents) if (above / "data" / "targets.toml").exists()), place)
    return checkout / (os.environ.get("RPA_BUILD") or "build") / "lab"


def _stem():
    return getattr(running_notebook(), "stem", "unnamed")


def _header():
    """Stem, profile and code version of what runs; without RPA_CODE the latter takes half a second of parsing."""
    code = os.environ.get("RPA_CODE") or code_version(str(running_notebook() or _stem()))
    return {"stem": _stem(), "profile": os.environ.get("RPA_PROFILE") or _seen["profile"], "code": code}


def use_style() -> None:
    """Apply the style of all figures, figures/rpa.mplstyle.

    A notebook shows a figure, framed as it is saved, where plt.show() is called, and not at the end of the cell that
    begins it: one that takes several cells would be seen unfinished.
    """
    import matplotlib.pyplot as plt

    plt.style.use(in_checkout("figures/rpa.mplstyle"))
    plt.switch_backend(plt.get_backend())  # a notebook's turns interaction on when it is loaded: not later than here
    plt.ioff()
    if (shell := _shell()) is not None:
        shell.run_line_magic("config", "InlineBackend.print_figure_kwargs = {'bbox_inches': None}")


def record(
    id: str,
    value: Any,
    *,
    error: Any = None,
    varies: str | None = None,
    tolerance: Any = None,
    null: Any = None,
    ours: Any = None,
    **meta: Any,
) -> None:
    """Add one record to <out>/data/results/<stem of the running notebook>.json.

    id: a claim's id in data/targets.toml, or any further name
    value: a number, bool, list or dict of numbers (arrays become lists), by the method of the paper; for a claim of our
        own, by ours
    error: the standard error or bound of value, in the same form
    null, ours: the numbers of the null (for a claim of our own: of the rival) and of our method, in the same form
    varies: a key of VARIES, by default "statistical" with an error and "deterministic" without
    tolerance: how far a rerun may differ, by default TOLERANCES or the error; a number, or the form of value
    meta: further plain values. on: what value was measured on ("100 images, 16,384 samples"); reached: up to which
        noise the claim holds; seed; parameters: dict of the protocol's choices; data: dict name -> SHA-256 of what was
        read (a name with "stand-in" marks the record as not made from the real data)

    Records made by other code, another profile or other parameters are dropped from the file first. Raises ValueError
    naming the id for no number, NaN, infinity or anything else that is no plain number, for an error of another form
    or below 0, for another `varies`, and where a statistical or retrained record has neither error nor tolerance.
    """
    entry = {"value": _plain(id, value, numbers_only=True)}
    for key, numbers in (("error", error), ("null", null), ("ours", ours), ("tolerance", tolerance)):
        if numbers is not None:
            entry[key] = _plain(id, numbers, numbers_only=True)
    entry["varies"] = varies or ("deterministic" if error is None else "statistical")
    for key in {"error", "tolerance"} & set(entry):
        numbers, places = (dict(flatten(entry[name])) for name in (key, "value"))
        if numbers.keys() not in ({""}, places.keys()) or min(numbers.values()) < 0:
            raise ValueError(f"record {id!r}: {key}: expected numbers >= 0, one or as in value, got {entry[key]}")
    if entry["varies"] not in VARIES:
        raise ValueError(f"record {id!r}: varies: expected one of {', '.join(VARIES)}, got {varies!r}")
    if tolerance is None and error is None and entry["varies"] not in TOLERANCES:
        raise ValueError(f"record {id!r}: a {varies} record needs an error or a tolerance, got neither")
    if (shell := _shell()) is not None:
        entry["cell"] = len(shell.user_ns["In"]) - 1
    entry |= {key: _plain(id, item) for key, item in meta.items() if item is not None}
    if any("stand-in" in name.lower() for name in entry.get("data", ())):
        entry["stand_in"] = True
    header = _header() | {"packages": package_versions()}
    if os.environ.get("RPA_PARAMETERS"):  # without: run by hand, with parameters that nobody knows
        header["parameters"] = json.loads(os.environ["RPA_PARAMETERS"])
    path = output_folder() / "data" / "results" / f"{_stem()}.json"
    previous = _read(path)
    kept = previous.get("records", {}) if {k: previous.get(k) for k in header} == header else {}
    _write(path, header | {"records": dict(sorted((kept | {id: entry}).items()))})


def Recorder(**shared: Any) -> Callable[..., None]:
    """`record` with the seed, the protocol's parameters and the data of one notebook, which a call may replace."""
    return partial(record, **shared)


def record_timing(id: str, seconds: Any, path: Path | None = None) -> None:
    """Add seconds (a number, list or dict of numbers) to <out>/data/results/timings/<stem>.json, or to `path`."""
    path = path or output_folder() / "data" / "results" / "timings" / f"{_stem()}.json"
    machine = {"system": platform.system(), "processor": processor(), "cores": os.cpu_count()}
    timings = _read(path) | {"machine": machine, id: _plain(id, seconds, numbers_only=True)}
    _write(path, dict(sorted(timings.items())))


def save_figure(fig: Figure) -> None:
    """Write fig to <out>/figures/<stem>.png and .pdf, with its provenance in their metadata.

    Call it after the records: the data that they name go into the metadata, and if any of them is a stand-in the figure
    itself says STAND-IN.
    """
    folder, header = output_folder(), _header()
    records = _read(folder / "data" / "results" / f"{_stem()}.json").get("records", {}).values()
    data = {name: digest for r in records for name, digest in r.get("data", {}).items()}
    options: dict[str, Any] = {}
    if any(r.get("stand_in") for r in records):
        fig.text(0.99, -0.01, "STAND-IN DATA", ha="right", va="top", fontsize=8, color=MONTE_CARLO, weight="bold")
        options["bbox_inches"] = "tight"  # room below the figure for the words
    named = ", ".join(f"{name} {str(digest)[:12]}" for name, digest in sorted(data.items())) or "none"
    source = f"rpa code {header['code']}; profile {header['profile']}; data: {named}"
    engine = fig.get_layout_engine()
    for kind, described in (("png", {"Description": source}), ("pdf", {"Subject": source, "CreationDate": None})):
        options |= {"format": kind, "metadata": {"Title": _stem()} | described}
        _files.replace(folder / "figures" / f"{_stem()}.{kind}", partial(fig.savefig, **options))
        fig.set_layout_engine("none")  # the places computed for one file serve the other
    fig.set_layout_engine(engine)


def save_table(frame: pd.DataFrame, part: str = "") -> None:
    """Write a pandas DataFrame to <out>/figures/<stem>.csv, or <stem>_<part>.csv where a notebook writes several.

    A plain range index is left out, floats are exact.
    """
    name = _stem() + (f"_{part}" if part else "")
    index = frame.index.name is not None or frame.index.nlevels > 1
    path = output_folder() / "figures" / f"{name}.csv"
    _files.replace(path, lambda temporary: frame.to_csv(temporary, index=index, lineterminator="\n"))


def load_records(folder: str | Path | None = None) -> dict[tuple[str, str], dict]:
    """{(stem, id): record} of `read_results`.

    Each record also holds the profile and code of its file, and the notebook's parameters under `notebook_parameters`.
    """
    records: dict[tuple[str, str], dict] = {}
    for stem, file in read_results(folder).items():
        shared = {"profile": file["profile"], "code": file["code"], "notebook_parameters": file.get("parameters")}
        records |= {(stem, id): entry | shared for id, entry in file["records"].items()}
    return records


def read_results(folder: str | Path | None = None) -> dict[str, dict]:
    """{stem: content} of the *.json in a results folder (default: the repository's data/results).

    Raises OSError naming the file for one that is no record file, or that has the name of another notebook.
    """
    contents = {}
    for path in sorted(Path(folder or ROOT / "data" / "results").glob("[!.]*.json")):
        try:
            content = json.loads(path.read_text())
            if content["stem"] != path.stem:
                raise ValueError(f"a copy of {content['stem']}.json")
            contents[path.stem] = {key: content[key] for key in ("profile", "code", "packages", "records")} | content
            for id, entry in content["records"].items():
                shown = [entry["value"], *(entry[k] for k in ("error", "null", "ours", "tolerance") if k in entry)]
                _plain(id, shown, numbers_only=True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(f"{path}: no record file ({error!r}); delete it and run its notebook again") from error
    return contents


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """(place, number) of every number in a record's value: "", "[3]", "mean_slope[0]" ..."""
    if isinstance(value, (dict, list)):
        named = value.items() if isinstance(value, dict) else ((f"[{i}]", item) for i, item in enumerate(value))
        for name, item in named:
            yield from flatten(item, f"{key}.{name}" if key and isinstance(value, dict) else f"{key}{name}")
    else:
        yield key, value


def numbers(entry: dict, key: str = "value") -> list[tuple[str, float, float | None]]:
    """[(place, number, its standard error or None)] of the numbers under `key` of a record, [] where it has none."""
    errors = dict(flatten(entry["error"])) if key == "value" and "error" in entry else {}
    return [(place, number, errors.get(place, errors.get(""))) for place, number in flatten(entry.get(key, []))]


def processor() -> str:
    """The machine's name of its processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _shell():
    """The IPython shell of a notebook, None elsewhere."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _plain(id, value, numbers_only=False):
    """`value` as what JSON can hold exactly; ValueError naming the record `id` otherwise."""
    try:
        plain = json.loads(json.dumps(value, default=lambda array: array.tolist(), allow_nan=False))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"record {id!r}: expected plain values and finite numbers, got {value!r}") from error
    numbers = [isinstance(number, (int, float)) for _, number in flatten(plain)]
    if numbers_only and not (numbers and all(numbers)):
        raise ValueError(f"record {id!r}: expected numbers, got {value!r}")
    return plain


def _read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path, content):
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    _files.replace(path, lambda temporary: temporary.write_text(text))
