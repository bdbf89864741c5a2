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


@dataclass
class Known:
    """What is known of steps on batches of one shape."""

    recording: autodiff.Recording | None = None  # None: there cannot be one, or it is not needed any more
    trusted: bool = False
    launches: Launches | None = None
    captured: bool = False  # whether launches are trusted
    why_not: str = ""


class Launches:
    """An evaluation as a graph, over arrays of its own for what changes from step to step."""

    def __init__(self, evaluate: Callable[..., Evaluated], params: dict, inputs: Any, out: dict, workspace: Any):
        self.own = autodiff.mapped(np.copy, inputs)

        def run(traced: Callable[[np.ndarray], Any]) -> Evaluated:
            return evaluate(*(autodiff.mapped(traced, part) for part in (params, self.own, out)))

        self.graph = capture.Graph(run, workspace)
        self.arguments = [self.graph.argument(own) for own in autodiff.leaves_of(self.own)]

    def __call__(self, inputs: Any) -> Evaluated:
        for argument, given in zip(self.arguments, autodiff.leaves_of(inputs), strict=True):
            argument.put(given)
        self.graph.launch()
        return self.graph.result


class Replays:
    """Evaluations by what is known of them.

    known : by the shapes of a step's arrays        replayed : whether the last one was the nodes' alone
    It keeps nothing of whose evaluations they are, so that both go when nobody needs them.
    """

    def __init__(self, graphs: bool):
        self.graphs = graphs
        self.known: dict[Any, Known] = {}
        self.replayed = False
        self.workspace = capture.Workspace()

    def __reduce__(self) -> tuple:
        return Replays, (self.graphs,)  # of a copy's arrays nothing is known

    def evaluate(
        self,
        terms: Callable[[dict, dict], Any],
        back: Callable[[tuple, dict], Evaluated],
        params: dict,
        inputs: dict,
        out: dict,
        gradient: Any,
    ) -> Evaluated:
        """back(evaluated, out), with the gradient in `out`, of which `gradient` is the flat array; evaluated is what
        `autodiff.vjp` returns of terms(params, inputs)."""

        def python() -> Evaluated:
            return back(autodiff.vjp(lambda p: terms(p, inputs), params, has_aux=True, out=out), out)

        self.replayed = False
        key = _kinds(inputs | {"step": None})
        if key is None or (key not in self.known and len(self.known) == MOST):
            return python()
        step = inputs["step"]
        arrays = inputs | {
            "step": dispatch.namespace(gradient).full((), step, gradient.dtype) if isinstance(step, int) else step
        }

        def record(params: dict, arrays: dict, out: dict) -> autodiff.Recording:
            return autodiff.Recording(terms, params, inputs=arrays, has_aux=True, out=out)

        def once(*given: dict) -> Evaluated:
            recording = record(*given)
            try:
                return back(recording.first, given[-1])
            finally:
                recording.release()

        if key not in self.known:
            self.known[key] = known = Known()
            try:
                known.recording = record(params, arrays, out)
            except MemoryError:
                del self.known[key]
                raise
            except Exception:  # whatever it is, it shows when Python runs, if it has not to do with the recording
                return python()
            try:
                return back(known.recording.first, out)
            finally:
                known.recording.release()
        known = self.known[key]
        if known.captured:
            assert known.launches is not None
            return known.launches(arrays)
        if known.recording is None:
            return python()

        def walk() -> Evaluated:
            assert known.recording is not None
            try:
                return back(known.recording.replay(params, inputs=arrays), out)
            finally:
                known.recording.release()

        if not known.trusted:
            expected = python(), gradient.copy()
            result = walk()
            known.trusted = _same(expected, (result, gradient))
            if not known.trusted:
                known.recording = None
                result, gradient[:] = expected
            return result
        if dispatch.is_cuda(gradient) or not self.graphs or known.why_not:
            result = walk()
            self.replayed = True
            return result
        if known.launches is None:
            memory.clear()  # of what the steps so far have used: the next ones' lies in the workspace
        with memory.using(self.workspace):
            result = autodiff.mapped(np.copy, walk())
        self._capture(known, once, params, arrays, out, gradient, result)
        return result

    def _capture(self, known: Known, evaluate: Callable[..., Evaluated], params, inputs, out, gradient, result) -> None:
        """Capture, or look whether what was captured gives the result that the nodes have given."""
        expected = result, gradient.copy()
        try:
            if known.launches is None:
                known.launches = Launches(evaluate, params, inputs, out, self.workspace)
            else:
                known.captured = _same(expected, (known.launches(inputs), gradient))
                known.why_not = "" if known.captured else "its launches give other numbers"
        except Exception as error:
            known.why_not = f"{type(error).__name__}: {error}"
        if known.why_not:
            logger.info("steps are walked node by node, for they cannot be captured: %s", known.why_not)
            known.launches = None
        if known.captured:
            known.recording = None
        gradient[:] = expected[1]


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
