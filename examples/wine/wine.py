"""Which model tells wines apart best?  A small, whole training pipeline on scikit-learn's wine data set."""

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from flytekit import LaunchPlan, task, workflow
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

TARGET = "target"


@dataclass
class Settings:
    """How a model is trained."""

    kind: str
    parameters: dict[str, float] = field(default_factory=dict)


@dataclass
class Score:
    """How well it did on wines that it had not seen."""

    kind: str
    accuracy: float
    cross_validated: float


Split = NamedTuple("Split", [("train", StructuredDataset), ("test", StructuredDataset)])
Result = NamedTuple("Result", [("model", str), ("accuracy", float), ("report", FlyteFile)])


@task
def load() -> StructuredDataset:
    """178 wines, 13 measurements each, from three growers."""
    from sklearn.datasets import load_wine

    return StructuredDataset(dataframe=load_wine(as_frame=True).frame)


@task
def split(data: StructuredDataset, test_share: float, seed: int) -> Split:
    """Put some wines aside for the test."""
    from sklearn.model_selection import train_test_split

    frame = data.open(pd.DataFrame).all()
    train, test = train_test_split(frame, test_size=test_share, random_state=seed, stratify=frame[TARGET])
    return Split(StructuredDataset(dataframe=train), StructuredDataset(dataframe=test))


@task(retries=1)
def train(train: StructuredDataset, test: StructuredDataset, settings: Settings, folds: int) -> Score:
    """Train one model and score it."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        "forest": lambda: RandomForestClassifier(n_estimators=int(settings.parameters["trees"]), random_state=0),
        "neighbours": lambda: KNeighborsClassifier(n_neighbors=int(settings.parameters["neighbours"])),
        "logistic": lambda: LogisticRegression(C=settings.parameters["c"], max_iter=1000),
    }
    model = make_pipeline(StandardScaler(), models[settings.kind]())
    known, unknown = train.open(pd.DataFrame).all(), test.open(pd.DataFrame).all()
    x, y = known.drop(columns=TARGET), known[TARGET]
    cross_validated = float(cross_val_score(model, x, y, cv=folds).mean())
    accuracy = float(model.fit(x, y).score(unknown.drop(columns=TARGET), unknown[TARGET]))
    print(f"{settings.kind}: {accuracy:.3f} on the test, {cross_validated:.3f} cross-validated")
    return Score(settings.kind, accuracy, cross_validated)


@task
def choose(scores: list[Score]) -> Result:
    """The best model, and a report on all of them."""
    ranked = sorted(scores, key=lambda score: (score.cross_validated, score.accuracy), reverse=True)
    lines = ["# Wine models", "", "| model | test | cross-validated |", "|---|---|---|"]
    lines += [f"| {score.kind} | {score.accuracy:.3f} | {score.cross_validated:.3f} |" for score in ranked]
    with open("report.md", "w") as report:
        report.write("\n".join(lines) + "\n")
    return Result(ranked[0].kind, ranked[0].accuracy, FlyteFile("report.md"))


@workflow
def compare(train_data: StructuredDataset, test_data: StructuredDataset, folds: int) -> list[Score]:
    """Train three kinds of model side by side."""
    forest = train(train=train_data, test=test_data, settings=Settings("forest", {"trees": 50.0}), folds=folds)
    neighbours = train(
        train=train_data, test=test_data, settings=Settings("neighbours", {"neighbours": 7.0}), folds=folds
    )
    logistic = train(train=train_data, test=test_data, settings=Settings("logistic", {"c": 1.0}), folds=folds)
    return [forest, neighbours, logistic]


@workflow
def pipeline(test_share: float = 0.3, seed: int = 7, folds: int = 5) -> Result:
    """Load, split, compare, choose."""
    parts = split(data=load(), test_share=test_share, seed=seed)
    scores = compare(train_data=parts.train, test_data=parts.test, folds=folds)
    return choose(scores=scores)


quick = LaunchPlan.get_or_create(pipeline, name="wine.quick", default_inputs={"folds": 2, "seed": 1})
