"""`python -m deploy.chart`: write the chart's README and schema."""

from deploy.chart import CHART, files


def main() -> None:
    for name, text in files().items():
        (CHART / name).write_text(text)


if __name__ == "__main__":
    main()
