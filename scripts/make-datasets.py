#!/usr/bin/env python3
"""Makes data/*.csv from the copies of the UCI data sets inside a scikit-learn wheel.

    pip download --no-deps scikit-learn && python3 scripts/make-datasets.py scikit_learn-*.whl

Numbers stay as they are written in the wheel; only the header and the names of the classes are ours.
"""

import csv
import gzip
import sys
import zipfile
from pathlib import Path

MEASURES = ["radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity",
            "concave_points", "symmetry", "fractal_dimension"]
WINE = ["alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
        "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280_od315_of_diluted_wines",
        "proline"]
FEATURES = {
    "iris": ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"],
    "wine": WINE,
    "breast_cancer": [f"{statistic}_{measure}" for statistic in ("mean", "se", "worst") for measure in MEASURES],
    "digits": [f"pixel_{y}_{x}" for y in range(8) for x in range(8)],
}
FILES = {"iris": "iris.csv", "wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv",
         "digits": "digits.csv.gz"}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(__file__).resolve().parent.parent / "data"
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for name, file in FILES.items():
            raw = wheel.read(f"sklearn/datasets/data/{file}")
            raw = gzip.decompress(raw) if file.endswith(".gz") else raw
            rows = list(csv.reader(raw.decode("utf-8").splitlines()))
            # The plain files begin with a line "rows,columns,class names"; the digits have none.
            classes = [str(digit) for digit in range(10)]
            if name != "digits":
                classes = rows.pop(0)[2:]
            with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as out:
                writer = csv.writer(out, lineterminator="\n")
                writer.writerow([*FEATURES[name], "target"])
                for *features, target in rows:
                    assert len(features) == len(FEATURES[name])
                    writer.writerow([*features, classes[int(target)]])


if __name__ == "__main__":
    main()
