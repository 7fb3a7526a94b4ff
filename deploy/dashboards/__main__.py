"""`python -m deploy.dashboards`: write the dashboards into the chart, or with `--check` say whether they differ."""

import sys

from deploy.dashboards import FOLDER, files


def main() -> int:
    """Write what differs; with `--check`, 1 when anything does."""
    drifted = [
        name for name, text in files().items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        print("\n".join(f"{name} is not what deploy/dashboards makes: make dashboards" for name in drifted))
        return 1 if drifted else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in drifted:
        (FOLDER / name).write_text(files()[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
