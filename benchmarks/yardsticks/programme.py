"""A linear programme that is written row by row: all variables at least 0, the sum of their worths as large as can be."""

import math
from array import array
from collections.abc import Iterable

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]

Term = tuple[int, float]
"""A variable and its coefficient."""

# What the solver's tolerances (1e-7 a row) may have cost, with plenty to spare.
_TOLERANCE = 1e-6


class Programme:
    """Variables are numbered from 0 in the order they are made."""

    def __init__(self) -> None:
        self._most = array("d")
        self._worth = array("d")
        self._at_most = _Rows()
        self._equal = _Rows()

    def variable(self, most: float = math.inf, worth: float = 0.0) -> int:
        """A new variable from 0 to `most`; each unit of it is worth so much."""
        self._most.append(most)
        self._worth.append(worth)
        return len(self._most) - 1

    def at_most(self, terms: Iterable[Term], limit: float) -> None:
        """The sum of the terms is `limit` at most."""
        self._at_most.add(terms, limit)

    def equal(self, terms: Iterable[Term], value: float) -> None:
        """The sum of the terms is `value`."""
        self._equal.add(terms, value)

    def maximum(self) -> float:
        """What the worths come to at most, no less than the true optimum. Raises ArithmeticError if the solver gives up."""
        count = len(self._most)
        solved = linprog(
            -np.array(self._worth),
            A_ub=self._at_most.matrix(count),
            b_ub=np.array(self._at_most.right),
            A_eq=self._equal.matrix(count),
            b_eq=np.array(self._equal.right),
            bounds=np.column_stack([np.zeros(count), np.array(self._most)]),
            # Interior points are faster on some of our programmes, and run into numerical trouble on others.
            method="highs-ds",
        )
        if solved.status != 0:
            raise ArithmeticError(f"the linear programme was not solved: {solved.message}")
        return float(-solved.fun) * (1 + _TOLERANCE) + _TOLERANCE


class _Rows:
    """A sparse matrix in the making, and its right-hand side."""

    def __init__(self) -> None:
        self.right = array("d")
        self._row, self._column, self._value = array("q"), array("q"), array("d")

    def add(self, terms: Iterable[Term], right: float) -> None:
        for variable, coefficient in terms:
            self._row.append(len(self.right))
            self._column.append(variable)
            self._value.append(coefficient)
        self.right.append(right)

    def matrix(self, columns: int) -> coo_array:
        entries = np.array(self._value), (np.array(self._row), np.array(self._column))
        return coo_array(entries, shape=(len(self.right), columns)).tocsr()
