"""The judge of membership inference: who is a member is known here, and only here."""

import numpy as np
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.blind import blind_scores
from casemate.assess.case import Case
from casemate.assess.result import Curve, Flag, Spent
from casemate.assess.shadows import Trial, draw_trial, make_world
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry
from casemate.core.target import Ledger, ScoreOracle
from casemate.core.tick import Tick
from casemate.ops import roc
from casemate.ops.rng import generator, seed_of
from casemate.ops.stats import Estimate, share

RATES = {"tpr_at_1pct_fpr": 0.01, "tpr_at_01pct_fpr": 0.001}
HEADLINE = "tpr_at_1pct_fpr"
FALSE_ALARMS = 10  # expected at a rate, below which it is called not measurable
FEWEST = 20  # rows of each kind that the blind baseline can learn from


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Ask the attack about equally many training and test rows, and compare with the truth."""
    trial = draw_trial(_training_data(bench), bench.test, case.rows, case.seed)
    r = len(trial.members) // 2
    if r < FEWEST:
        raise NotApplicable(f"membership needs {FEWEST} training and {FEWEST} test rows. Got {r} of each")
    blind = _blind(trial, case, bench)
    trial_x, trial_y = trial.scored.x.to(bench.target.device), trial.scored.y.to(bench.target.device)
    ledger = Ledger.empty(2 * r)
    world = make_world(trial, case, bench, tick)
    scores = entry.run(
        ScoreOracle(bench.prepared, ledger), trial_x, trial_y, world,
        rng=generator(case.seed, entry.id), tick=tick, **entry.validate(case.params),
    ).double().cpu()  # fmt: skip
    if scores.shape != (2 * r,):
        raise ValueError(
            f"{entry.id} must return a score for each of {2 * r} rows. Got {tuple(scores.shape)}."
        )
    if bool(scores.isnan().any()):
        raise ValueError(f"{entry.id} must return numbers. Got NaN for {int(scores.isnan().sum())} rows.")
    found, others = _apart(scores, trial.members)
    return Measured(
        headline=HEADLINE,
        metrics=rates_of(found, others),
        baseline=rates_of(*_apart(blind, trial.members)),
        clean=_clean(trial, bench),
        curves={"roc": _curve(found, others)},
        flags=_flags(trial, blind),
        spent=Spent(
            queries_mean=float(ledger.queries.double().mean()), queries_max=int(ledger.queries.max())
        ),
        tensors={"scores": scores, "members": trial.members, "rows": trial.rows, "y": trial.scored.y},
        notes={
            "members": r,
            "non_members": r,
            "training_rows": trial.training_rows,
            "test_rows_left_out_as_copies": trial.copies,
            "shadows": int(case.params.get("shadows", 0)),
            "formula": entry.details,
        },
    )


def _training_data(bench: Bench) -> Samples:
    if bench.train is None:
        raise NotApplicable("membership needs the training data, and only test data was given")
    return bench.train


def _blind(trial: Trial, case: Case, bench: Bench) -> Tensor:
    """Scores of the model-free attacker, shared by the cases of a run."""
    name = f"blind {case.data} {case.seed} {len(trial.members)}"
    if name not in bench.cache:
        bench.cache[name] = blind_scores(trial.scored, trial.members, seed_of(case.seed, "blind"))
    scores: Tensor = bench.cache[name]
    return scores


def _apart(scores: Tensor, members: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return scores[members].numpy(), scores[~members].numpy()


def rates_of(members: np.ndarray, others: np.ndarray) -> dict[str, Estimate]:
    """Measure how well scores tell members (M,) from others (N,)."""
    return {
        **{name: roc.tpr(members, others, rate) for name, rate in RATES.items()},
        "auc": roc.auc(members, others),
    }


def _clean(trial: Trial, bench: Bench) -> dict[str, Estimate]:
    """Accuracy on the scored rows of both kinds, and what guessing reaches."""
    right = bench.target.predict(trial.scored.x).argmax(1) == trial.scored.y
    r = len(right) // 2
    return {
        "accuracy": share(int(right[~trial.members].sum()), r),
        "train_accuracy": share(int(right[trial.members].sum()), r),
        **{name: Estimate(rate, rate, rate, r) for name, rate in RATES.items()},
        "auc": Estimate(0.5, 0.5, 0.5, 2 * r),
    }


def _curve(members: np.ndarray, others: np.ndarray) -> Curve:
    rates, points = roc.curve(members, others)
    return Curve(
        x=rates,
        y=[p.value for p in points],
        low=[p.low for p in points],
        high=[p.high for p in points],
        x_label="false positive rate, share of the non-members",
        y_label="true positive rate, share of the members",
        log=True,
    )


def _flags(trial: Trial, blind: Tensor) -> tuple[Flag, ...]:
    r = len(trial.members) // 2
    flags = []
    found, others = _apart(blind, trial.members)
    if roc.beats_chance(found, others):
        area = roc.auc(found, others).value
        flags.append(
            Flag(
                code="blind-baseline",
                detail=f"without asking the model, members are told from non-members with AUC {area:.2f}: "
                "the two differ in kind, and no score says what the model remembers",
            )
        )
    for name, rate in RATES.items():
        if round(r * rate) < FALSE_ALARMS:
            code = "few-rows" if name == HEADLINE else "low-fpr-not-measurable"
            need = round(FALSE_ALARMS / rate)
            flags.append(Flag(code=code, detail=f"{name} needs {need} non-members; there are {r}"))
    return tuple(flags)
