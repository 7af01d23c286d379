"""Likelihoods in the units that papers use."""

import math


def bits_per_dimension(nats: float, dimensions: int) -> float:
    r"""\(\mathrm{NLL} / (D \ln 2)\), from nats a row."""
    return nats / (dimensions * math.log(2.0))
