"""The lambda-return: one recursion for imagined and for real rewards.

::

    t         0        1        2   ...   T-1        T
    value    V0       V1       V2        V[T-1]    last_value
    rew         r0       r1        ...        r[T-1]            rew[t], con[t]: what the step from t gave
    con         c0       c1        ...        c[T-1]
    return   R0 ◀──── R1 ◀──── R2  ...   R[T-1] ◀── last_value

    R[t] = rew[t] + discount * con[t] * ((1 - trace) * V[t+1] + trace * R[t+1])

Rows of ``core.types`` hold what a step gave one row later, where it was seen: the caller passes ``rew[1:]`` and
``~is_terminal[1:]`` of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_return(
    rew: Float[Tensor, " T *batch"],
    con: Float[Tensor, " T *batch"],
    value: Float[Tensor, " T *batch"],
    last_value: Float[Tensor, "*batch"],
    discount: float,
    trace: float | Tensor,
) -> Float[Tensor, " T *batch"]:
    """R[t] for every t, time first: trace 0 looks one step ahead, trace 1 sums all rewards up to ``last_value``.

    ``con`` 0 ends an episode: nothing that comes after it, values included, reaches the returns before it.

    A row from which no step was taken (an episode's last) has its own value as its return if it is given
    ``rew = value`` and ``con = 0`` there: that is how a truncated episode is bootstrapped.

    Args:
        rew: reward of the step from t.
        con: 1 where the episode goes on after the step from t, 0 where it ends there, or the probability of going on.
        value: V at t; the first row's is not used.
        last_value: V at T, after the last step.
        discount: gamma.
        trace: lambda; or one for every step (T, ...): 0 where it leads to a row that ends an episode, whose value is
            all that is known there.
    """
    after = torch.cat([value[1:], last_value[None]])  # (T, ...): V[t+1]
    keep = discount * con
    known = rew + keep * (1 - trace) * after  # (T, ...): all but the recursion
    ret, returns = last_value, []
    for step, go_on in zip(reversed(known.unbind()), reversed((keep * trace).unbind()), strict=True):
        ret = torch.addcmul(step, go_on, ret)  # (...)
        returns.append(ret)
    return torch.stack(returns[::-1])
