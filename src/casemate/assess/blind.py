"""A membership attacker who never asks the target: what it finds is not memorised by the model."""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from casemate.core.data import Samples

FEATURES = 512  # enough to see a shift, few enough for seconds of one core
FOLDS = 5


def blind_scores(scored: Samples, members: Tensor, seed: int) -> Tensor:
    """Score rows by inputs and labels alone, higher = more like the members, (N,).

    Two classifiers of unlike kinds (regularised logistic regression, and extremely randomised
    trees) learn members from non-members on four fifths of the rows and rank the last fifth, in
    turn; the score is the mean of the two ranks.

    Args:
        scored: the rows (N).
        members: which of them are members (N,) bool, at least five of each kind.
        seed: decides folds, features and trees.

    Returns:
        Scores (N,) in (0, 1], each from models that have not seen the row.
    """
    # scikit-learn takes a second to import; only a membership case pays for it
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, wanted = _features(scored, seed), members.cpu().numpy()
    scores = np.zeros(len(table))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    for known, new in folds.split(table, wanted):
        # so strong a penalty that hundreds of noisy features do not drown a shift of all of them
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
        trees = ExtraTreesClassifier(100, min_samples_leaf=5, random_state=seed % 2**32)
        for model in (linear, trees):
            model.fit(table[known], wanted[known])
            # ranks, because models of different folds differ in their level
            scores[new] += rankdata(model.predict_proba(table[new])[:, 1]) / len(new)
    return torch.from_numpy(scores / 2)


def _features(scored: Samples, seed: int) -> np.ndarray:
    """Values of each input, its label, and what summaries show of how it was made, (N, F)."""
    flat = scored.x.flatten(1).cpu().numpy().astype(np.float64)
    levels = flat * 255
    summaries = [
        flat.mean(1), flat.std(1), flat.min(1), flat.max(1), (flat == 0).mean(1), (flat == 1).mean(1),
        np.abs(levels - levels.round()).mean(1),
    ]  # fmt: skip
    labels = np.eye(scored.classes)[scored.y.cpu().numpy()]
    if flat.shape[1] > FEATURES:
        flat = flat[:, np.random.default_rng(seed).choice(flat.shape[1], FEATURES, replace=False)]
    return np.column_stack([flat, *summaries, labels])
