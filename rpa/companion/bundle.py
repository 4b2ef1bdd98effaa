"""One archive of the whole companion: `python -m rpa.companion.bundle` writes build/rpa-<code>.zip.

Inside: every file that git knows, the executed notebooks of the full profile, an RO-Crate description
(ro-crate-metadata.json) and SHA256SUMS. The same commit and the same notebooks give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import yaml

from rpa import _files
from rpa._files import ROOT
from rpa.companion.run import is_current

__all__ = ["bundle", "contents", "main"]

KINDS = {".ipynb": "application/x-ipynb+json", ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown",
         ".py": "text/x-python", ".png": "image/png", ".pdf": "application/pdf"}  # fmt: skip


def contents(root: Path = ROOT) -> dict[str, bytes]:
    """{name in the archive: bytes} of all tracked files and of the executed notebooks, executed/<stem>.ipynb, by name.

    Raises FileNotFoundError naming the notebooks that the present code has not been run in.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    files = {name: (root / name).read_bytes() for name in listed.split("\0") if name and (root / name).is_file()}
    executed = root / "build" / "full"
    stems = [path.stem for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))]
    stale = [stem for stem in stems if not is_current(stem, "full", executed)]
    if stale:
        raise FileNotFoundError(f"build/full: not run with the present code: {', '.join(stale)}; run make figures")
    files |= {f"executed/{stem}.ipynb": (executed / f"{stem}.ipynb").read_bytes() for stem in stems}
    return dict(sorted(files.items()))


def _described(files, root):
    """The RO-Crate description of the files, as JSON."""
    from rocrate.rocrate import ROCrate

    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%cI"], cwd=root, capture_output=True, check=True, text=True
    )
    crate = ROCrate()
    crate.name, crate.description = cited["title"], cited.get("abstract", cited["title"])
    crate.license = "https://spdx.org/licenses/MIT"
    crate.datePublished = committed.stdout.strip()
    for name, content in files.items():
        about = {"name": name, "contentSize": str(len(content)), "sha256": sha256(content).hexdigest()}
        kind = KINDS.get(Path(name).suffix)
        crate.add_file(dest_path=name, properties=about | ({"encodingFormat": kind} if kind else {}))
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True).encode()


def bundle(path: Path, root: Path = ROOT) -> Path:
    """Write the archive at `path`, whole or not at all; returns the path. Raises what `contents` raises."""
    files = contents(root)
    files["ro-crate-metadata.json"] = _described(files, root)
    sums = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    files["SHA256SUMS"] = sums.encode()

    def write(temporary):
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, content)

    return _files.replace(path, write)


def main() -> int:
    """The command line: the archive's path and size, or what is missing."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    try:
        path = bundle(ROOT / "build" / f"rpa-{commit.stdout.strip()}.zip")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
