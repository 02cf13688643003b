"""What is compared: works, their data sets, and which peers do them."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = ROOT / "target" / "peers"

# Epochs of networks: as many as it takes until loss and accuracy tell more than where they began.
EPOCHS = {"train_step/cnn_adam": 5}
USUAL_EPOCHS = 20

# Shapes (rows, features, classes) of made-up tables.
TABLES = [(6400, 64, 10), (6400, 784, 10), (100_000, 28, 2), (50_000, 54, 7)]

# LightGBM as it is, 31 leaves of any depth, and with trees and steps of the size of XGBoost's, which are ours, too. The
# work of long steps is the other way round: ours are as long as those of LightGBM as it is.
BOOSTERS = ["xgboost", "lightgbm", "lightgbm-depth-6"]

# The data set, and which peers do the work.
WORKS = {
    "train_step/mlp_small_adam": ("r6400f64", ["pytorch"]),
    "train_step/mlp_small_sgd": ("r6400f64", ["pytorch"]),
    "train_step/mlp_784_adam": ("r6400f784", ["pytorch"]),
    "train_step/mlp_784_sgd": ("r6400f784", ["pytorch"]),
    "train_step/cnn_adam": ("images", ["pytorch"]),
    "train_step/logistic_sgd": ("r6400f64", ["pytorch"]),
    "boosting/binary_100k_28": ("r100000f28", BOOSTERS),
    "boosting/multi_50k_54": ("r50000f54", BOOSTERS),
    "boosting/multi_50k_54_long_steps": ("r50000f54", ["lightgbm"]),
    "boosting/digits": ("digits", BOOSTERS),
    "forest/binary_100k_28": ("r100000f28", ["scikit-learn"]),
    "forest/multi_50k_54": ("r50000f54", ["scikit-learn"]),
    "forest/digits": ("digits", ["scikit-learn"]),
}
