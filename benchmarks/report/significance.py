"""Whether two sets of runs differ by more than runs do anyway.

What is held against each other are runs, not rounds: the rounds of one run share its functions, processes and connections, where the
kernel put them and what lay in memory beside them, and so they agree with each other better than with those of the next run. A test over
rounds takes each run's luck for a change. Of each run there is one figure, the logarithm of the median of its ratios: a median is not moved
by a round that something disturbed, and on logarithms a change is a difference.

Two sets are compared by Welch's t-test, which lets each have a spread of its own. A rank test (Mann and Whitney's, or a permutation) would
assume less, but with three runs in each set, as `--fast` makes, it cannot say less than one in ten, however far the two are apart.

A table has many rows, of which some would look changed by chance: so the level is that of Benjamini and Hochberg's procedure, group by
group, which bounds the part of wrong ones among those of a group that are called significant.
"""

from __future__ import annotations

import math
import statistics
from typing import List, Optional, Sequence

# At most this part of what is called significant is so by chance.
LEVEL = 0.05
# The least spread of runs that is believed, as a part of the value: with two or three they may agree by chance better than clocks do.
_FINEST = 0.002
_ITERATIONS = 300
_TINY = 1e-300


def p_value(before: Sequence[float], after: Sequence[float]) -> Optional[float]:
    """How probable so great a difference of two sets of positive figures, one for each run, is by chance; None if one has a single run."""
    if min(len(before), len(after)) < 2:
        return None
    first, second = [math.log(value) for value in before], [math.log(value) for value in after]
    errors = [max(statistics.variance(values), _FINEST**2) / len(values) for values in (first, second)]
    t = (statistics.fmean(second) - statistics.fmean(first)) / math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (first, second)))
    return two_sided(t, freedom)


def two_sided(t: float, freedom: float) -> float:
    """The probability of a value of Student's t further from 0 than `t`."""
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Lentz's method)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _ITERATIONS):
        before = result
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _apart(1 + factor * d)
            c = _apart(1 + factor / c)
            result *= c * d
        if abs(result - before) <= 1e-14 * abs(result):
            break
    return min(1.0, front * result)


def _apart(value: float) -> float:
    """Never 0, so that it divides."""
    return value if abs(value) > _TINY else _TINY


def significant(probabilities: Sequence[Optional[float]], level: float = LEVEL) -> List[bool]:
    """Which of them are so, by Benjamini and Hochberg's procedure; what could not be tested is not."""
    tested = sorted(p for p in probabilities if p is not None)
    bound = max((p for rank, p in enumerate(tested, 1) if p <= level * rank / len(tested)), default=-1.0)
    return [p is not None and p <= bound for p in probabilities]
