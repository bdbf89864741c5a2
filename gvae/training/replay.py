"""A step's evaluation, made again without the Python that led to it.

Steps on batches of one shape do the same to other numbers. The first is recorded as a list of nodes, which are run in the
second, beside Python; from the third on they are run in its place. On a CPU the third is captured as a list of launches as
well (see gvae.capture), which are made in the fourth, beside the nodes; from the fifth on they are made in their place. Each
way counts only after it has given metrics, state and gradient bit for bit as the one before it did, with a step's other
numbers; what cannot be recorded, or captured, goes on as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import autodiff, capture, dispatch, memory

MOST = 8  # recordings: each is a list of nodes and their settings

Evaluated = tuple[dict[str, Any], dict[str, Any]]  # (metrics, state)

logger = logging.getLogger(__name__)


class Asked:
    """One evaluation: terms(params, inputs), differentiated into `out`, of which `gradient` is the flat array, and what
    `back` makes of it."""

    def __init__(self, terms: Callable, back: Callable[[tuple, dict], Evaluated], params, inputs, out, gradient: Any):
        self.terms, self.back, self.params, self.out, self.gradient = terms, back, params, out, gradient
        self.inputs, step = inputs, inputs["step"]
        if isinstance(step, int):
            step = dispatch.namespace(gradient).full((), step, gradient.dtype)
        self.arrays = inputs | {"step": step}

    def by_python(self) -> Evaluated:
        evaluated = autodiff.vjp(lambda p: self.terms(p, self.inputs), self.params, has_aux=True, out=self.out)
        return self.back(evaluated, self.out)

    def recorded(self) -> autodiff.Recording:
        return autodiff.Recording(self.terms, self.params, inputs=self.arrays, has_aux=True, out=self.out)

    def traced(self, traced: Callable[[np.ndarray], Any], arrays: dict, out: dict) -> Evaluated:
        """As a graph sees it, of these arrays and into that."""
        params, arrays, out = (autodiff.mapped(traced, part) for part in (self.params, arrays, out))
        again = Asked(self.terms, self.back, params, arrays, out, self.gradient)
        return again.first(again.recorded())

    def first(self, recording: autodiff.Recording) -> Evaluated:
        try:
            return self.back(recording.first, self.out)
        finally:
            recording.release()

    def by_nodes(self, recording: autodiff.Recording) -> Evaluated:
        try:
            return self.back(recording.replay(self.params, inputs=self.arrays), self.out)
        finally:
            recording.release()


class Launches:
    """An evaluation as a graph, over arrays of its own for what changes from step to step."""

    def __init__(self, asked: Asked, workspace: capture.Workspace):
        self.own = autodiff.mapped(np.copy, asked.arrays)
        self.places = _places(asked)

        self.graph = capture.Graph(lambda traced: asked.traced(traced, self.own, asked.out), workspace)
        self.arguments = [self.graph.argument(own) for own in autodiff.leaves_of(self.own)]

    def fits(self, asked: Asked) -> bool:
        """Whether parameters and gradient are the arrays that it reads and writes."""
        places = _places(asked)
        return len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))

    def __call__(self, asked: Asked) -> Evaluated:
        for argument, given in zip(self.arguments, autodiff.leaves_of(asked.arrays), strict=True):
            argument.put(given)
        self.graph.launch()
        return autodiff.mapped(np.copy, self.graph.result)


def _places(asked: Asked) -> list[np.ndarray]:
    return [*autodiff.leaves_of(asked.params), *autodiff.leaves_of(asked.out)]


@dataclass
class Known:
    """What is known of steps on batches of one shape."""

    recording: autodiff.Recording | None = None  # None: there cannot be one, or it is not needed any more
    trusted: bool = False
    launches: Launches | None = None
    captured: bool = False  # whether launches are trusted
    why_not: str = ""


class Replays:
    """Evaluations by what is known of them.

    known : by the shapes of a step's arrays        replayed : whether the last one was the nodes' alone
    graphs : whether the CPU's may be captured
    It keeps nothing of whose evaluations they are, so that both go when nobody needs them.
    """

    def __init__(self, graphs: bool):
        self.graphs = graphs
        self.known: dict[Any, Known] = {}
        self.replayed = False
        self.workspace = capture.Workspace()

    def __reduce__(self) -> tuple:
        return Replays, (self.graphs,)  # of a copy's arrays nothing is known

    def evaluate(self, terms: Callable, back: Callable, params: dict, inputs: dict, out: dict, gradient: Any) -> Evaluated:
        """What `Asked` describes."""
        asked = Asked(terms, back, params, inputs, out, gradient)
        self.replayed = False
        key = _kinds(inputs | {"step": None})
        known = self.known.get(key)
        if known is not None and known.launches is not None and not known.launches.fits(asked):
            known = None  # somebody has put other arrays in their place
        if known is None:
            return self._record(asked, key)
        if known.captured:
            assert known.launches is not None
            try:
                return known.launches(asked)
            except MemoryError:
                raise
            except Exception:  # whatever it is, it shows when Python runs, if it has not to do with launches
                del self.known[key]
                return asked.by_python()
        if known.recording is None:
            return asked.by_python()
        if not known.trusted:
            return _trust(asked, known)
        if dispatch.is_cuda(gradient) or not self.graphs or known.why_not:
            result = asked.by_nodes(known.recording)
            self.replayed = True
            return result
        return self._capture(asked, known)

    def _record(self, asked: Asked, key: Any) -> Evaluated:
        """The first of its kind."""
        if key is None or (key not in self.known and len(self.known) == MOST):
            return asked.by_python()
        known = self.known[key] = Known()
        try:
            known.recording = asked.recorded()
        except MemoryError:
            del self.known[key]
            raise
        except Exception:  # whatever it is, it shows when Python runs, if it has not to do with the recording
            return asked.by_python()
        return asked.first(known.recording)

    def _capture(self, asked: Asked, known: Known) -> Evaluated:
        """By nodes, and to capture it, or to look whether what was captured does the same."""
        assert known.recording is not None
        if known.launches is None:
            memory.clear()  # of what the steps so far have used: the next ones' lies in the workspace
        with memory.using(self.workspace):
            result = autodiff.mapped(np.copy, asked.by_nodes(known.recording))
        expected = result, asked.gradient.copy()
        try:
            if known.launches is None:
                known.launches = Launches(asked, self.workspace)
            else:
                known.captured = _same(expected, (known.launches(asked), asked.gradient))
                known.why_not = "" if known.captured else "its launches give other numbers"
        except Exception as error:
            known.why_not = f"{type(error).__name__}: {error}"
        if known.why_not:
            logger.info("steps are walked node by node, for they cannot be captured: %s", known.why_not)
            known.launches = None
        if known.captured:
            known.recording = None
        asked.gradient[:] = expected[1]
        return result


def _trust(asked: Asked, known: Known) -> Evaluated:
    """By Python, and by nodes, to look whether they do the same."""
    assert known.recording is not None
    expected = asked.by_python(), asked.gradient.copy()
    result = asked.by_nodes(known.recording)
    known.trusted = _same(expected, (result, asked.gradient))
    if not known.trusted:
        known.recording = None
        result, asked.gradient[:] = expected
    return result


def _kinds(inputs: dict) -> tuple | None:
    """What tells inputs apart whose steps differ in more than values; None if something is not an array."""
    kinds: list[Any] = []
    for name, part in inputs.items():
        if isinstance(part, dict):
            inner = _kinds(part)
            if inner is None:
                return None
            kinds.append((name, inner))
        elif part is None or isinstance(part, int):
            kinds.append(name)
        elif isinstance(part, np.ndarray) or (dispatch.is_cuda(part) and not hasattr(part, "indptr")):
            kinds.append((name, part.shape, part.dtype))
        else:
            return None
    return tuple(kinds)


def _same(expected: tuple, got: tuple) -> bool:
    """Whether ((metrics, state), gradient) have the same bits."""
    ((metrics, state), gradient), ((metrics_, state_), gradient_) = expected, got
    if metrics.keys() != metrics_.keys():
        return False
    pairs = [(x, metrics_[name]) for name, x in metrics.items()] + [(x, state_[name]) for name, x in state.items()]
    hosts = ((np.asarray(dispatch.to_host(x)), np.asarray(dispatch.to_host(y))) for x, y in [*pairs, (gradient, gradient_)])
    return all(x.tobytes() == y.tobytes() for x, y in hosts)
