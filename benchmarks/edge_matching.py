"""Agreement of an edge map with people's boundaries (BSDS500): matched pixels, ODS, OIS, AP.

    pixels = counts(soft, drawn_by, annotators, thresholds)
    result = scores(pixels[None], thresholds, LOW)

The protocol is the usual one (Martin, Fowlkes and Malik, PAMI 2004; Arbelaez et al., PAMI 2011;
Dollar and Zitnick, PAMI 2015, https://github.com/pdollar/edges): soft maps are thinned by
non-maximum suppression, cut at several thresholds, thinned again, and matched with the people's
pixels within 0.0075 of the diagonal. Precision is the fraction of drawn pixels that are matched,
recall the fraction of people's pixels, both over all images. ODS is the best F of one threshold for
all images, OIS that of the best threshold of each image, AP the area under the curve.

There, a map is matched one-to-one with each person's map in turn. Here, only the mean of the
people's maps is known: how many drew a pixel, not who. Therefore this is an estimate of those
figures, between a low and a high one:

- Recall: a pixel that k people drew counts k times. A drawn pixel serves as many people as have a
  line within its reach: their pixels there, divided by the mean chord of that disc (an upper bound
  would be all of them).
- Precision, in the protocol the fraction of drawn pixels that are matched with anyone's. High:
  matched one-to-one with the pixels that anyone drew. People's lines of one contour lie side by
  side, so two drawn lines along it may both count. Low: matched one-to-one with these lines merged
  into one for each contour, so they may not.
- Matchings are the largest possible ones (a maximum flow). The protocol's assignment of least cost
  (Goldberg's CSA) charges 100 times the tolerance for a pixel without a partner: it matches as
  many, and chooses nearer partners. Only the numbers count.
"""

from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.0075  # of the diagonal
MERGE = 5  # pixels: side of the square that closes the gap between people's lines of one contour
# Columns of `counts`.
PEOPLE_MATCHED = 0  # people's pixels that are matched
PEOPLE = 1  # all people's pixels
LOW = 2  # drawn pixels that are matched with merged lines
HIGH = 3  # drawn pixels that are matched with everyone's lines
DRAWN = 4  # all drawn pixels


def counts(
    soft: np.ndarray, drawn_by: np.ndarray, annotators: int, thresholds: np.ndarray
) -> np.ndarray:
    """Return numbers of pixels of an image at each threshold: int (thresholds, 5).

    soft: thin map, float (H, W) in 0..1.
    drawn_by: how many of the `annotators` drew each pixel, int (H, W).
    """
    from scipy.spatial import cKDTree
    from skimage.morphology import thin

    reach = TOLERANCE * np.hypot(*soft.shape)
    weights = drawn_by[drawn_by > 0]
    every = cKDTree(np.argwhere(drawn_by))
    merged = cKDTree(np.argwhere(merged_lines(drawn_by)))
    result = np.zeros((len(thresholds), 5), int)
    for row, threshold in zip(result, thresholds, strict=True):
        drawn = cKDTree(np.argwhere(thin(soft >= threshold)))
        row[PEOPLE] = weights.sum()
        row[DRAWN] = drawn.n
        if not drawn.n or not every.n:
            continue
        near = drawn.sparse_distance_matrix(every, reach, output_type="coo_matrix")
        mean_chord = np.pi / 2 * reach  # of the disc
        people = np.bincount(near.row, weights[near.col], drawn.n) / mean_chord
        row[PEOPLE_MATCHED] = most_served(near, np.ceil(people).clip(1, annotators), weights)
        row[HIGH] = most_served(near, np.ones(drawn.n), np.ones(every.n))
        near = drawn.sparse_distance_matrix(merged, reach, output_type="coo_matrix")
        row[LOW] = most_served(near, np.ones(drawn.n), np.ones(merged.n))
    return result


def merged_lines(drawn_by: np.ndarray) -> np.ndarray:
    """Return everyone's lines as one, bool (H, W).

    Lines at most MERGE - 1 pixels apart become the line between them.
    """
    import cv2
    from skimage.morphology import thin

    anyone = (drawn_by > 0).astype(np.uint8)
    closed = cv2.morphologyEx(anyone, cv2.MORPH_CLOSE, np.ones((MERGE, MERGE)))
    return thin(closed > 0)


def most_served(near, supplies: np.ndarray, demands: np.ndarray) -> int:
    """Return how much of the demands can be served at most.

    near: sparse matrix (supplies, demands); an entry means that the one can serve the other.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    rows, columns = near.shape
    source = rows + columns
    sink = source + 1
    tails = np.concatenate([np.full(rows, source), near.row, rows + np.arange(columns)])
    heads = np.concatenate([np.arange(rows), rows + near.col, np.full(columns, sink)])
    capacities = np.concatenate([supplies, supplies[near.row], demands]).astype(np.int32)
    graph = csr_array((capacities, (tails, heads)), shape=(sink + 1, sink + 1))
    return int(maximum_flow(graph, source, sink).flow_value)


# ---- figures


@dataclass(frozen=True)
class Scores:
    """Figures of a detector, 0..1; precision and recall have an entry for each threshold."""

    ods: float
    ods_precision: float
    ods_recall: float
    ods_threshold: float
    ois: float
    ap: float
    precision: list[float]
    recall: list[float]


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return the harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def precision_recall(pixels: np.ndarray, matched: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (...) of rows of `counts` (..., 5). matched: LOW or HIGH."""
    precision = pixels[..., matched] / np.maximum(pixels[..., DRAWN], 1)
    recall = pixels[..., PEOPLE_MATCHED] / np.maximum(pixels[..., PEOPLE], 1)
    return precision, recall


def scores(pixels: np.ndarray, thresholds: np.ndarray, matched: int) -> Scores:
    """Return the figures of the `counts` of all images, (images, thresholds, 5), as `edgesEvalDir`.

    ODS is searched between neighboring thresholds too, with linear interpolation of precision and
    recall. matched: LOW or HIGH.
    """
    precision, recall = precision_recall(pixels.sum(0), matched)
    between = np.linspace(0, 1, 100)[:, None]

    def interpolated(values: np.ndarray) -> np.ndarray:
        return (values[:-1] * (1 - between) + values[1:] * between).ravel()

    p, r, t = map(interpolated, (precision, recall, thresholds))
    best = f_measure(p, r).argmax()
    order = np.argsort(recall, kind="stable")
    heights = np.interp(np.linspace(0, 1, 101), recall[order], precision[order], left=0, right=0)
    return Scores(
        ods=float(f_measure(p, r)[best]),
        ods_precision=float(p[best]),
        ods_recall=float(r[best]),
        ods_threshold=float(t[best]),
        ois=best_of_each(pixels, matched),
        ap=float(heights.sum() / 100),
        precision=precision.tolist(),
        recall=recall.tolist(),
    )


def best_of_each(pixels: np.ndarray, matched: int) -> float:
    """Return OIS: the F over all images, each at its own best threshold."""
    own = f_measure(*precision_recall(pixels, matched)).argmax(1)
    chosen = pixels[np.arange(len(pixels)), own].sum(0)
    return float(f_measure(*precision_recall(chosen, matched)))
