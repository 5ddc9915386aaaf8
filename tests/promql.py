"""PromQL over two scrapes: Prometheus's grammar by another's parser, and as much of its meaning as our examples need.

What is not known here raises, so no expression of an example passes unread.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import promql_parser as grammar
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
NAME = "__name__"
# What Prometheus adds to all that it scrapes from one place.
TARGET = {"job": "poold", "instance": "localhost:9127"}

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda one, other: one / other if other else math.nan,
}
_AGGREGATES: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}


class UnknownNameError(AssertionError):
    """An expression names a metric, a label or a value of a label that no scrape has."""


def scraped(text: str, **more: float) -> Vector:
    """The series of one scrape, with what Prometheus adds itself; more are other metrics."""
    found = {
        frozenset({**sample.labels, **TARGET, NAME: sample.name}.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return found | {frozenset({**TARGET, NAME: name}.items()): value for name, value in more.items()}


class Promql:
    """Expressions over two scrapes, so many seconds apart."""

    def __init__(self, before: Vector, now: Vector, seconds: float) -> None:
        self.before, self.now, self.seconds = before, now, seconds

    # Names.

    def check(self, text: str) -> None:
        """Raise UnknownNameError unless there are series for each selector, and all labels are theirs."""
        expression = grammar.parse(text)
        for selector in _selectors(expression):
            self._check_selector(selector)
        self.labels(expression)

    def _check_selector(self, selector: Any) -> None:
        named = [dict(labels) for labels in self.now if (NAME, selector.name) in labels]
        if not named:
            raise UnknownNameError(f"no series has the name {selector.name}")
        for matcher in selector.matchers.matchers:
            values = {labels[matcher.name] for labels in named if matcher.name in labels}
            if not values:
                raise UnknownNameError(f"{selector.name} has no label {matcher.name}")
            # A pattern may name what is not there at the moment, as one of several; a plain value has to be there.
            if matcher.op in (grammar.MatchOp.Equal, grammar.MatchOp.NotEqual) and matcher.value not in values:
                raise UnknownNameError(f"{matcher.name} of {selector.name} is never {matcher.value!r}")
            if matcher.op in (grammar.MatchOp.Re, grammar.MatchOp.NotRe):
                words = re.fullmatch(r"[\w|]+", matcher.value) and set(matcher.value.split("|"))
                if words and not words <= values:
                    raise UnknownNameError(f"{matcher.name} of {selector.name} is never {words - values}")

    def labels(self, expression: Any) -> set[str]:
        """The labels that the expression's result has."""
        match expression:
            case grammar.VectorSelector():
                return {name for labels in self.now if (NAME, expression.name) in labels for name, _ in labels} - {NAME}
            case grammar.MatrixSelector():
                return self.labels(expression.vector_selector)
            case grammar.ParenExpr():
                return self.labels(expression.expr)
            case grammar.NumberLiteral():
                return set()
            case grammar.Call():
                found = set[str]().union(*map(self.labels, expression.args))
                return found - {"le"} if expression.func.name == "histogram_quantile" else found
            case grammar.AggregateExpr():
                inner, kept = self.labels(expression.expr), set(_kept(expression))
                if not kept <= inner:
                    raise UnknownNameError(f"what is aggregated has no label {kept - inner}")
                return kept
            case grammar.BinaryExpr():
                left, right = self.labels(expression.lhs), self.labels(expression.rhs)
                matching = expression.modifier and expression.modifier.matching
                if matching and not set(matching.labels) <= left | right:
                    raise UnknownNameError(f"neither side has the label {set(matching.labels) - left - right}")
                return left or right
        raise NotImplementedError(type(expression))

    # Values.

    def value(self, text: str) -> Vector | float:
        """What the expression is at the second scrape."""
        return self._value(grammar.parse(text))

    def _value(self, expression: Any) -> Any:
        match expression:
            case grammar.VectorSelector():
                return _selected(self.now, expression)
            case grammar.ParenExpr():
                return self._value(expression.expr)
            case grammar.NumberLiteral():
                return expression.val
            case grammar.Call():
                return self._call(expression)
            case grammar.AggregateExpr():
                return self._aggregate(expression)
            case grammar.BinaryExpr():
                return self._binary(str(expression.op), expression)
        raise NotImplementedError(type(expression))

    def _call(self, call: Any) -> Any:
        match call.func.name:
            case "rate" | "increase" | "changes":
                (matrix,) = call.args
                before = _selected(self.before, matrix.vector_selector)
                now = _selected(self.now, matrix.vector_selector)
                over = self.seconds if call.func.name == "rate" else 1.0
                grown = {labels: value - before[labels] for labels, value in now.items() if labels in before}
                if call.func.name == "changes":
                    return {labels: float(value != 0) for labels, value in grown.items()}
                return {labels: value / over for labels, value in grown.items()}
            case "histogram_quantile":
                share, buckets = (self._value(each) for each in call.args)
                return _quantiles(share, buckets)
            case "time":
                return 2e9
        raise NotImplementedError(call.func.name)

    def _aggregate(self, expression: Any) -> Vector:
        groups: dict[Labels, list[float]] = {}
        kept = _kept(expression)
        for labels, value in self._value(expression.expr).items():
            groups.setdefault(frozenset(pair for pair in labels if pair[0] in kept), []).append(value)
        return {labels: _AGGREGATES[str(expression.op)](values) for labels, values in groups.items()}

    def _binary(self, op: str, expression: Any) -> Any:
        left, right = self._value(expression.lhs), self._value(expression.rhs)
        if not isinstance(left, dict):
            if isinstance(right, dict) and op in _ARITHMETIC:
                return {labels: _ARITHMETIC[op](left, value) for labels, value in right.items()}
            raise NotImplementedError(f"a number {op} something else")
        if not isinstance(right, dict):
            if op in _COMPARISONS:
                return {labels: value for labels, value in left.items() if _COMPARISONS[op](value, right)}
            return {labels: _ARITHMETIC[op](value, right) for labels, value in left.items()}
        key = _match_by(expression.modifier and expression.modifier.matching)
        others: dict[Labels, float] = {}
        for labels, value in right.items():
            assert op == "and" or key(labels) not in others, "many series match one"
            others[key(labels)] = value
        pairs = {labels: (value, others[key(labels)]) for labels, value in left.items() if key(labels) in others}
        if op == "and":
            return {labels: value for labels, (value, _) in pairs.items()}
        if op in _COMPARISONS:
            return {labels: value for labels, (value, other) in pairs.items() if _COMPARISONS[op](value, other)}
        assert len({key(labels) for labels in pairs}) == len(pairs), "many series match one"
        return {key(labels): _ARITHMETIC[op](value, other) for labels, (value, other) in pairs.items()}


def _selectors(expression: Any) -> Iterator[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, grammar.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, grammar.VectorSelector):
            found.append(node)
        return True

    grammar.walk(expression, visit)
    return iter(found)


def _kept(expression: Any) -> list[str]:
    if expression.modifier is None or expression.modifier.type != grammar.AggModifierType.By:
        raise NotImplementedError("an aggregate without by")
    return list(expression.modifier.labels)


def _match_by(matching: Any) -> Callable[[Labels], Labels]:
    """What two series have to have in common."""
    if matching is None:
        return lambda labels: frozenset(pair for pair in labels if pair[0] != NAME)
    names = {*matching.labels}
    is_on = matching.type == grammar.LabelModifierType.Include
    return lambda labels: frozenset(pair for pair in labels if (pair[0] in names) == is_on and pair[0] != NAME)


def _selected(series: Mapping[Labels, float], selector: Any) -> Vector:
    found = {}
    for labels, value in series.items():
        pairs = dict(labels)
        if pairs[NAME] == selector.name and all(_matches(pairs, each) for each in selector.matchers.matchers):
            found[frozenset(pair for pair in labels if pair[0] != NAME)] = value
    return found


def _matches(pairs: Mapping[str, str], matcher: Any) -> bool:
    value = pairs.get(matcher.name, "")
    if matcher.op == grammar.MatchOp.Equal:
        return bool(value == matcher.value)
    if matcher.op == grammar.MatchOp.NotEqual:
        return bool(value != matcher.value)
    is_like = re.fullmatch(matcher.value, value) is not None
    return is_like == (matcher.op == grammar.MatchOp.Re)


def _quantiles(share: float, buckets: Vector) -> Vector:
    """Prometheus's estimate, but for the lowest bucket."""
    histograms: dict[Labels, dict[float, float]] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        histograms.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), {})[bound] = count
    found = {}
    for labels, counts in histograms.items():
        assert math.inf in counts, "no bucket for the rest"
        rank, low, below = share * counts[math.inf], 0.0, 0.0
        found[labels] = math.nan
        for bound in sorted(counts):
            if counts[bound] >= rank and counts[math.inf]:
                part = (rank - below) / (counts[bound] - below) if counts[bound] > below else 0.0
                found[labels] = low if bound == math.inf else low + (bound - low) * part
                break
            low, below = bound, counts[bound]
    return found
