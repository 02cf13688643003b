"""Loads models of the train command into PyTorch and compares them with predictions.csv.

Usage: networks_pytorch.py SITE-PACKAGES DATA.csv FOLDER...   (where the package safetensors is)
Prints one JSON object a folder: the greatest difference of a probability (or, for numbers, of a prediction in
deviations of the target) and the number of rows. Architecture, standardisation and classes are what the file says.
"""

import csv
import json
import sys
from pathlib import Path

# Behind the packages of the system: PyTorch is Debian's, and wants Debian's numpy.
sys.path.append(sys.argv[1])

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def main():
    with open(sys.argv[2], newline="") as file:
        rows = list(csv.reader(file))[1:]
    for folder in sys.argv[3:]:
        path = Path(folder) / "model.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        # Sequential(Linear(4, 3), ...) as it is written: nothing but names of torch.nn.
        model = eval(metadata["architecture"], {"__builtins__": {}}, vars(torch.nn))
        model.load_state_dict(load_file(path))
        model.eval()
        features = json.loads(metadata["features"])
        target = json.loads(metadata["target"])
        with open(Path(folder) / "predictions.csv", newline="") as file:
            predictions = list(csv.reader(file))[1:]
        inputs = []
        for prediction in predictions:
            row = rows[int(prediction[0])]
            inputs.append([
                (float(cell) - feature["mean"]) / feature["std"] if feature["std"] else 0.0
                for cell, feature in zip(row, features)
            ])
        signal = torch.tensor(inputs, dtype=torch.float32)
        if metadata["architecture"].startswith("Sequential(Conv2d"):
            side = int(len(features) ** 0.5)
            signal = signal.reshape(-1, 1, side, side)
        with torch.no_grad():
            outputs = model(signal)
        if "classes" in target:
            got = torch.softmax(outputs, dim=1)
            want = torch.tensor([[float(cell) for cell in row[3:]] for row in predictions])
            assert [target["classes"][i] for i in got.argmax(1)] == [row[2] for row in predictions]
        else:
            got = outputs[:, 0]
            values = [(float(row[2]) - target["mean"]) / target["std"] for row in predictions]
            want = torch.tensor(values, dtype=torch.float32)
        assert got.shape == want.shape
        print(json.dumps({"difference": (got - want).abs().max().item(), "rows": len(predictions)}))


main()
