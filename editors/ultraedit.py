"""UltraEdit: one closed-form update from the inputs and output gradients of linear modules, without training.

Gu et al. 2025, "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models", arXiv 2505.14679.
One pass gives for each target token the input h and the output gradient g = dL/dy of every edited module y = W h, where
L is the mean negative log-likelihood over the target tokens of a mini-batch. Both are normalised by running statistics
over all edits so far, which modules of one shape share and which include the new rows:

    h^ = (h - mean) / std,    g^ = (g - mean) / std.

The wanted change of the output of row t is v_t = -eta |h^_t|^2 g^_t. Ridge regression on the inputs writes it:

    W += V^T (H H^T + rho I)^-1 H,

with the rows h_t in H, (rows, in), and v_t in V, (rows, out). All modules are updated at once.

Requests are sorted by the length of their text, the longest first, and read in mini-batches. As in the released code,
the variance of each mini-batch enters the statistics in its unbiased form, by which they depend on the mini-batches.

Differences from released code: the statistics of a single edit would decide their own scale. They therefore start from
the rows of tuning cases (warm-up), whose updates are not written. The released code drops gradients of the last rows
unless their number is a multiple of its buffer; here all rows are used. A mini-batch with one row has variance 0
instead of NaN. EasyEdit's port reads all positions of the text instead of those of the target and is another method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, Editor, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.modules import Role
from .shared.background import ModuleRows
from .shared.published import published
from .shared.running_statistics import RunningStatistics, Variance, as_state, from_state
from .shared.target_gradients import target_gradients
from .shared.warm_up import WARM_UP_TASKS, warm_up_requests

Statistics = dict[str, RunningStatistics]
"""Statistics by the shape of the modules that share them."""


@dataclass(frozen=True, kw_only=True)
class UltraEditConfig:
    """Hyper-parameters of UltraEdit."""

    gate: tuple[int, ...] | None = hyperparameter(None, help="Layers whose gate projections are edited, or none.")
    up: tuple[int, ...] | None = hyperparameter(None, help="Layers whose up projections are edited, or none.")
    down: tuple[int, ...] | None = hyperparameter(None, help="Layers whose MLP output projections are edited, or none.")
    learning_rate: float = hyperparameter(1e-6, help="Factor eta of the wanted change of the outputs.")
    ridge: float = hyperparameter(1.0, help="Ridge term rho of the regression.")
    batch_size: int = hyperparameter(10, help="Number of requests per pass.")
    turn: int = hyperparameter(100, help="Number of warm-up requests that are sorted by length together.")
    warm_up: int = hyperparameter(
        200, help="Number of tuning cases whose rows begin the statistics. Their updates are not written."
    )
    warm_up_tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these tuning cases, in turn.")

    def __post_init__(self) -> None:
        layers = [*(self.gate or ()), *(self.up or ()), *(self.down or ())]
        if not layers or min(layers) < 0:
            raise ValueError("name at least one layer under gate, up or down, for example down=24|25")
        if self.learning_rate <= 0 or self.ridge <= 0 or self.batch_size < 1 or self.turn < 1 or self.warm_up < 0:
            raise ValueError(
                "learning_rate and ridge must be above 0, batch_size and turn at least 1, warm_up not negative"
            )


class EditedModule(NamedTuple):
    """A linear module to edit: the name of its weight, its role and its layer."""

    weight: str
    role: Role
    layer: int


class UltraEdit(Editor[UltraEditConfig]):
    """Closed-form editing with lifelong normalisation.

    Attributes:
        variance: variance of a mini-batch that enters the statistics.
        whitens: whether gradients are multiplied by the inverse root of their covariance.
    """

    name = "ultraedit"
    summary = "Ridge regression on normalised gradients of several projections, in one pass"
    paper = "Gu et al. 2025, UltraEdit"
    Config: ClassVar[type] = UltraEditConfig
    published = published("ultraedit")
    variance: ClassVar[Variance] = "unbiased"
    whitens: ClassVar[bool] = False

    def __init__(self, config: UltraEditConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: the statistics of one model must not be used for another.
        self._warm: WeakKeyDictionary[LanguageModel, tuple[Statistics, int]] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return layers by depth as in the published settings for Llama-3, or for GPT-J if no module is the gate.

        The learning rate keeps the published product of eta and the size of the inputs.
        """
        n = lm.n_layers
        if lm.has_role("gate"):
            layers = {"gate": layers_between(0.34, 0.48, n), "up": layers_between(0.56, 0.76, n)}
            return {**layers, "learning_rate": 1e-6 * 4096 / lm.shape["width"]}
        return {"down": layers_between(0.64, 0.94, n), "learning_rate": 1e-6 * 16384 / lm.n_neurons}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute the statistics of the warm-up cases.

        Raises:
            KnbenchError: a layer or a task does not exist, or the model has no such projection.
        """
        _, count = self._warm_up(lm, reporter)
        return {"warm_up": {"requests": count, "tasks": list(self.config.warm_up_tasks), "split": "tune"}}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the update of all requests, the first one of a sequence.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or there are too few rows for statistics.
        """
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Compute the update of all requests, with the statistics of all edits so far.

        Raises:
            ValueError: see :meth:`edit`, or the state of the earlier edits is missing.
        """
        if earlier and state is None:
            raise ValueError("the statistics of the earlier edits are missing; pass the state of the previous edit")
        before = self._warm_up(lm, Reporter())[0] if state is None else from_state(state)
        rows = self.rows(lm, requests)
        after = self.updated(lm, before, rows)
        weights, norms = {}, []
        for module in self.modules(lm):
            change = self.change(after[_shape(rows[module.weight][0])], rows[module.weight])
            norms.append(round(float(change.norm()), 6))
            weight = lm.parameter(module.weight).detach()
            stored = lm.as_stored(module.layer, change.float().to(weight.device), module.role)
            weights[module.weight] = (weight.float() + stored).to(weight.dtype)
        return Edit(weights=weights, diagnostics={"update_norms": norms}, state=as_state(after))

    def modules(self, lm: LanguageModel) -> list[EditedModule]:
        """Return the edited modules: gate, up and down projections, each in the order of the config.

        Raises:
            KnbenchError: a layer does not exist, or the model has no such projection.
        """
        config = self.config
        roles: tuple[tuple[Role, tuple[int, ...] | None], ...] = (
            ("gate", config.gate), ("up", config.up), ("down", config.down)
        )  # fmt: skip
        return [EditedModule(lm.weight_name(r, layer), r, layer) for r, layers in roles for layer in layers or ()]

    def rows(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, list[ModuleRows]]:
        """Return inputs and output gradients by weight, one pair per mini-batch of the requests, the longest first.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        modules: dict[str, nn.Module] = {m.weight: lm.projection(m.role, m.layer) for m in self.modules(lm)}

        def length(request: EditRequest) -> int:
            return len(lm.token_queries(request.text, request.target_new, ".")[-1].ids)

        ordered = sorted(requests, key=length, reverse=True)
        size = self.config.batch_size
        batches = [target_gradients(lm, ordered[i : i + size], modules) for i in range(0, len(ordered), size)]
        return {name: [batch[name] for batch in batches] for name in modules}

    def updated(self, lm: LanguageModel, statistics: Statistics, rows: dict[str, list[ModuleRows]]) -> Statistics:
        """Return the statistics with the rows of all modules."""
        after = dict(statistics)
        for module in self.modules(lm):
            for inputs, gradients in rows[module.weight]:
                shape = _shape((inputs, gradients))
                if shape not in after:
                    sizes = inputs.shape[1], gradients.shape[1]
                    after[shape] = RunningStatistics.empty(*sizes, with_outer=self.whitens)
                after[shape] = after[shape].add(inputs, gradients, self.variance)
        return after

    def change(self, statistics: RunningStatistics, batches: Sequence[ModuleRows], *, whiten: bool = True) -> Tensor:
        """Return the update of a module, (out, in), float64.

        Args:
            statistics: statistics that include the rows.
            batches: inputs and output gradients of the module.
            whiten: whether to whiten the gradients, if the method does and there are enough rows.

        Raises:
            ValueError: the statistics have less than two rows.
        """
        if statistics.count < 2:
            raise ValueError("the statistics of one row have no variance; set warm_up above 0 or edit more requests")
        inputs, gradients = (torch.cat(parts) for parts in zip(*batches, strict=True))
        inputs = inputs.to(statistics.mean)
        normal_inputs, normal_gradients = statistics.normalise(inputs, gradients)
        if self.whitens and whiten and statistics.can_whiten:
            normal_gradients = statistics.whiten(gradients)
        wanted = -self.config.learning_rate * (normal_inputs**2).sum(1, keepdim=True) * normal_gradients
        return ridge_regression(inputs, wanted, self.config.ridge)

    def _warm_up(self, lm: LanguageModel, reporter: Reporter) -> tuple[Statistics, int]:
        """Return the statistics of the warm-up cases and their number, computed once per model."""
        if lm not in self._warm:
            config = self.config
            requests = warm_up_requests(lm, config.warm_up_tasks, config.warm_up)
            statistics: Statistics = {}
            turns = range(0, len(requests), config.turn)
            with reporter.stage("gradients of the warm-up cases", len(turns)) as step:
                for start in turns:
                    rows = self.rows(lm, requests[start : start + config.turn])
                    statistics = self.updated(lm, statistics, rows)
                    step()
            self._warm[lm] = statistics, len(requests)
        return self._warm[lm]


def ridge_regression(inputs: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Return V^T H (H^T H + rho I)^-1, (out, in), float64. The smaller of the two equal systems is solved.

    Args:
        inputs: H, (rows, in), float64.
        wanted: V, (rows, out), float64.
        ridge: rho.
    """
    rows, size = inputs.shape
    if rows <= size:
        system = inputs @ inputs.T + ridge * torch.eye(rows, dtype=inputs.dtype)
        update: Tensor = wanted.T @ torch.linalg.solve(system, inputs)
    else:
        system = inputs.T @ inputs + ridge * torch.eye(size, dtype=inputs.dtype)
        update = torch.linalg.solve(system, inputs.T @ wanted).T
    return update


def _shape(rows: ModuleRows) -> str:
    return f"{rows[0].shape[1]}x{rows[1].shape[1]}"


def layers_between(first: float, last: float, layers: int) -> tuple[int, ...]:
    """Return the layers between two shares of the depth, at least one."""
    start = min(round(first * layers), layers - 1)
    return tuple(range(start, max(round(last * layers), start + 1)))
