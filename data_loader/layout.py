"""Looking for the files of a data set in the places where people have them, and saying what was looked for."""
import os
from pathlib import Path


class Layout:
    """Looks in `roots` (metadata_dir, then data_dir) and remembers the names it looked for."""

    def __init__(self, data_dir: str, metadata_dir: str | None = None):
        for name, folder in (("data_dir", data_dir), ("metadata_dir", metadata_dir)):
            if folder is not None and not os.path.exists(folder):
                raise FileNotFoundError(f"{name}: {folder} does not exist; relative paths begin at {os.getcwd()}")
        self.data_dir = Path(data_dir)
        self.roots = [Path(folder) for folder in (metadata_dir, data_dir) if folder is not None]
        self.looked: dict[str, None] = {}

    def file(self, *names: str) -> Path | None:
        """The first of `names` that is a file under a root, or None."""
        self.looked.update(dict.fromkeys(names))
        paths = (root / name for name in names for root in self.roots)
        return next((path for path in paths if path.is_file()), None)

    def need(self, *names: str) -> Path:
        """`file`, or FileNotFoundError with all that was looked for so far."""
        found = self.file(*names)
        if found is None:
            raise self.nothing()
        return found

    def folder(self, *names: str) -> str:
        """The first of `names` that is a folder under data_dir, as a prefix for item paths; "" if there is none."""
        return next((name for name in names if (self.data_dir / name).is_dir()), "")

    def nothing(self) -> FileNotFoundError:
        """The error for a data set of which no layout was recognised."""
        roots = " and ".join(dict.fromkeys(map(str, self.roots)))
        return FileNotFoundError(f"no annotations found in {roots}; looked for {', '.join(self.looked)}")
