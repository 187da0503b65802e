"""Edge detection on an image: the classic first workflow."""

from typing import NamedTuple

from flytekit import task, workflow
from flytekit.types.file import FlyteFile

Edges = NamedTuple("Edges", [("image", FlyteFile), ("share", float)])


@task
def picture(name: str) -> FlyteFile:
    """A photograph that ships with scikit-learn: `china.jpg` or `flower.jpg`."""
    from skimage.io import imsave
    from sklearn.datasets import load_sample_image

    imsave("picture.png", load_sample_image(name))
    return FlyteFile("picture.png")


@task
def canny(image: FlyteFile, low: float, high: float) -> Edges:
    """Keep what the Canny detector takes for an edge; `low` and `high` are its hysteresis thresholds."""
    from skimage.color import rgb2gray
    from skimage.feature import canny as detect
    from skimage.io import imread, imsave
    from skimage.util import img_as_ubyte

    edges = detect(rgb2gray(imread(image.download())), sigma=2.0, low_threshold=low, high_threshold=high)
    imsave("edges.png", img_as_ubyte(edges), check_contrast=False)
    return Edges(FlyteFile("edges.png"), float(edges.mean()))


@workflow
def detect_edges(name: str = "china.jpg", low: float = 0.05, high: float = 0.15) -> Edges:
    """Take a photograph and find its edges."""
    return canny(image=picture(name=name), low=low, high=high)
