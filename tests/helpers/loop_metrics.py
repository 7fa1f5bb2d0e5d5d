"""Set metrics as loops in plain Python, independent of the package."""

from __future__ import annotations


def knn_accuracies(samples_samples, references_references, samples_references):
    """1-NNA with both halves by its definition; a tie between both sets counts one half."""
    num_samples, num_references = samples_references.shape
    clouds = [("r", i) for i in range(num_references)] + [("s", i) for i in range(num_samples)]

    def distance(a, b):
        if a[0] == b[0]:
            return float((references_references if a[0] == "r" else samples_samples)[a[1], b[1]])
        sample, reference = (a, b) if a[0] == "s" else (b, a)
        return float(samples_references[sample[1], reference[1]])

    score = {"r": 0.0, "s": 0.0}
    for cloud in clouds:
        others = [(distance(cloud, other), other[0]) for other in clouds if other != cloud]
        nearest = min(value for value, _ in others)
        kinds = {kind for value, kind in others if value == nearest}
        score[cloud[0]] += (cloud[0] in kinds) / len(kinds)
    total = (score["r"] + score["s"]) / len(clouds)
    return total, score["r"] / num_references, score["s"] / num_samples
