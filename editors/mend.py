"""MEND: a small trained network turns the gradient of an edit into the update of a few linear modules.

Mitchell et al. 2022, "Fast Model Editing at Scale" (ICLR). One pass gives for each module the inputs h_t and the
output gradients g_t at the tokens of the request. They are normalised, pass through the network, and give

    W - D,    D = eta sum_t g~_t h~_t^T,    eta > 0 learnt.

The network is trained on tuning cases. Its loss is c NLL(target after another prompt of the fact) + KL(before ||
after) on an unrelated text, both at W - D. Its gradient is taken in two steps, as in Tan et al. 2024 (MALMEN): first
with respect to the edited weights, then through the network alone. Single edits are exact; the rows of several
requests add.

Differences from released code: the released code adds D, whose sign the network then has to learn; here D is
subtracted, and eta is an exponential. The mean and the standard deviation of the rows are those of the first training
cases and do not change while the network learns. EasyEdit trains on the edit prompt itself, here other prompts are
used. The first eta is chosen by halving or doubling until the first step lowers the loss by about 0.1 nats.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject, derived_seed, digest
from ..benchmark.editing import Edit, Editor, TrainingCase, cases_digest, hyperparameter
from ..benchmark.models.hooks import resume_at
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.modules import Role
from .shared import gradient_network
from .shared.attended_gradients import Text, attended_gradients, read_texts
from .shared.background import ModuleRows
from .shared.gradient_network import Parameters
from .shared.published import published
from .shared.trained_file import TrainedFile, tensors_digest

SAVE_EVERY = 50
"""Number of training steps after which the state is stored."""
MOMENTS = ("exp_avg", "exp_avg_sq")
SECONDS = "seconds"
"""Name of the seconds that a training took, beside its tensors."""
STATISTICS_CASES = 100
"""Number of training cases whose rows give means and standard deviations."""
RATE_CASES = 8
"""Number of training cases on which the first step size is chosen."""
WANTED_DROP = 0.1
"""Fall of the loss in nats that the first step size should give."""


@dataclass(frozen=True, kw_only=True)
class MendConfig:
    """Hyper-parameters of MEND."""

    layers: tuple[int, ...] = hyperparameter(help="Layers whose MLP projections are edited.")
    rank: int = hyperparameter(64, help="Rank of the network's layers.")
    steps: int = hyperparameter(1000, help="Number of training steps.")
    accumulate: int = hyperparameter(4, help="Number of training cases per step.")
    learning_rate: float = hyperparameter(1e-4, help="Learning rate of Adam for the network.")
    rate_learning_rate: float = hyperparameter(1e-2, help="Learning rate of Adam for the logarithms of the step sizes.")
    clip: float = hyperparameter(100.0, help="Maximum norm of a gradient.")
    edit_factor: float = hyperparameter(1.0, help="Factor c of the loss on the target.")

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 0 or min(self.rank, self.steps, self.accumulate) < 1:
            raise ValueError("name at least one layer; rank, steps and accumulate must be at least 1")
        if min(self.learning_rate, self.rate_learning_rate, self.clip, self.edit_factor) <= 0:
            raise ValueError("the learning rates, clip and edit_factor must be above 0")


class EditedModule(NamedTuple):
    """A linear module to edit: the name of its weight, its role and its layer."""

    weight: str
    role: Role
    layer: int


class Mend(Editor[MendConfig]):
    """A trained network that transforms gradients into updates."""

    name = "mend"
    summary = "A trained network turns the gradient of an edit into an update of the last MLPs"
    paper = "Mitchell et al. 2022, Fast Model Editing at Scale (ICLR)"
    Config = MendConfig
    published = published("mend")
    trains = True

    def __init__(self, config: MendConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: a network fits the model that it was trained with.
        self._networks: WeakKeyDictionary[LanguageModel, Parameters] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the last three layers, as published."""
        return {"layers": tuple(range(max(lm.n_layers - 3, 0), lm.n_layers))}

    def modules(self, lm: LanguageModel) -> list[EditedModule]:
        """Return the projections of the MLPs, by layer.

        Raises:
            KnbenchError: a layer does not exist.
        """
        roles: tuple[Role, ...] = ("gate", "up", "down") if lm.gated else ("up", "down")
        return [EditedModule(lm.weight_name(role, n), role, n) for n in self.config.layers for role in roles]

    def train(self, lm: LanguageModel, cases: Sequence[TrainingCase], reporter: Reporter) -> JsonObject:
        """Train the network, or read it from the cache. An interrupted training continues.

        Raises:
            ValueError: there are too few cases, or a loss is not finite.
        """
        if len(cases) < 2:
            raise ValueError(f"the training needs at least 2 cases and has {len(cases)}")
        key = digest([lm.weight_hash(), cases_digest(cases), dataclasses.asdict(self.config), self.seed, "mend 2"])
        file = TrainedFile(self.name, key)
        with file.locked():
            found = file.result()
            if found is None:
                found = Training(self, lm, cases, file).run(reporter)
                file.save_result(found)
        seconds = round(float(found.pop(SECONDS)), 1)
        self._networks[lm] = found
        return {"cases": len(cases), "digest": tensors_digest(found), "seconds": seconds, "split": "tune"}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return the weights W - D.

        Raises:
            ValueError: the network is not trained, or a target cannot be tokenised after its prompt.
        """
        if lm not in self._networks:
            raise ValueError("the network of MEND is not trained for this model; call train() before edit()")
        network = self._networks[lm]
        changes = self.changes(lm, network, self.rows(lm, requests))
        norms = [round(float(change.norm()), 6) for change in changes.values()]
        return Edit(weights=self.edited(lm, changes), diagnostics={"update_norms": norms})

    def rows(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, ModuleRows]:
        """Return inputs and output gradients of each module at the tokens of the requests, by weight.

        The gradients of several requests are those of their own losses, as if each were edited alone.
        """
        texts = self.read(lm, [(request.text, request.target_new) for request in requests])
        parts = [self.rows_of(lm, text) for text in texts]
        return {
            name: (torch.cat([part[name][0] for part in parts]), torch.cat([part[name][1] for part in parts]))
            for name in parts[0]
        }

    def read(self, lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[Text]:
        """Return texts with the input of the first edited layer.

        Raises:
            ValueError: an answer cannot be tokenised after its prompt.
        """
        return read_texts(lm, pairs, min(self.config.layers))

    def rows_of(self, lm: LanguageModel, text: Text) -> dict[str, ModuleRows]:
        """Return inputs and output gradients of each module at the tokens of a text, by weight."""
        modules: dict[str, nn.Module] = {m.weight: lm.projection(m.role, m.layer) for m in self.modules(lm)}
        return attended_gradients(lm, text, modules, min(self.config.layers))

    def normalised(self, network: Parameters, rows: Mapping[str, ModuleRows]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return rows minus their mean, divided by their standard deviation."""
        found = {}
        for name, (inputs, gradients) in rows.items():
            mean, deviation = network[f"{name} mean"], network[f"{name} deviation"]
            x = (torch.cat([inputs, gradients], dim=1) - mean) / (deviation + 1e-7)
            found[name] = x[:, : inputs.shape[1]], x[:, inputs.shape[1] :]
        return found

    def changes(self, lm: LanguageModel, network: Parameters, rows: Mapping[str, ModuleRows]) -> dict[str, Tensor]:
        """Return D of each module as its weight is stored, float32."""
        roles = {m.weight: m for m in self.modules(lm)}
        with torch.no_grad():
            found = {
                name: gradient_network.update(network, name, *pair)
                for name, pair in self.normalised(network, rows).items()
            }
        return {name: lm.as_stored(roles[name].layer, d, roles[name].role) for name, d in found.items()}

    def edited(self, lm: LanguageModel, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return W - D by weight, in the type of the weights."""
        weights = {name: lm.parameter(name).detach() for name in changes}
        return {name: (w.float() - changes[name].to(w.device)).to(w.dtype).contiguous() for name, w in weights.items()}


class Training:
    """The training of a network. Its random choices depend on the step alone, so that it can be continued.

    Args:
        editor: the method.
        lm: the model.
        cases: the training cases.
        file: stores the state.
    """

    def __init__(self, editor: Mend, lm: LanguageModel, cases: Sequence[TrainingCase], file: TrainedFile) -> None:
        self.editor, self.lm, self.cases, self.file = editor, lm, cases, file
        self.config = editor.config
        self.roles = {m.weight: m for m in editor.modules(lm)}

    def run(self, reporter: Reporter, stop_at: int | None = None) -> dict[str, Tensor]:
        """Return the trained network with the statistics of the rows, and the seconds of all its parts.

        Args:
            reporter: receives progress.
            stop_at: step before which the training is interrupted, for tests.

        Raises:
            ValueError: a loss is not finite.
        """
        config, started = self.config, time.perf_counter()
        state = self.file.partial() or self.start(reporter)
        spent = float(state.get(SECONDS, torch.tensor(0.0)))  # before an interruption

        def seconds() -> Tensor:
            return torch.tensor(spent + time.perf_counter() - started, dtype=torch.float64)

        network = {n.removeprefix("net "): t.requires_grad_() for n, t in state.items() if n.startswith("net ")}
        fixed = {n: t for n, t in state.items() if n.endswith((" mean", " deviation"))}
        rates = [t for n, t in network.items() if n.endswith(" rate")]
        others = [t for n, t in network.items() if not n.endswith(" rate")]
        optimiser = torch.optim.Adam(
            [{"params": others, "lr": config.learning_rate}, {"params": rates, "lr": config.rate_learning_rate}]
        )
        begin = int(state.get("step", torch.tensor(0)))
        if begin:
            for name, tensor in network.items():
                moments = {part: state[f"{part} {name}"] for part in MOMENTS}
                optimiser.state[tensor] = {"step": torch.tensor(float(begin)), **moments}
        with reporter.stage("training of the network", config.steps) as advance:
            for _ in range(begin):
                advance()
            for step in range(begin, config.steps):
                if step == stop_at:
                    break
                gradients = [torch.zeros_like(tensor) for tensor in network.values()]
                for texts in self.texts(step):
                    for total, own in zip(gradients, self.gradient({**network, **fixed}, *texts), strict=True):
                        total += own / config.accumulate
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm().clamp_min(config.clip)
                for tensor, gradient in zip(network.values(), gradients, strict=True):
                    tensor.grad = gradient * (config.clip / norm)
                optimiser.step()
                advance()
                if (step + 1) % SAVE_EVERY == 0:
                    stored = {f"net {n}": t for n, t in network.items()}
                    stored |= {f"{part} {n}": optimiser.state[t][part] for n, t in network.items() for part in MOMENTS}
                    self.file.save_partial({**stored, **fixed, "step": torch.tensor(step + 1), SECONDS: seconds()})
        return {**{name: tensor.detach() for name, tensor in network.items()}, **fixed, SECONDS: seconds()}

    def chosen(self, step: int) -> list[TrainingCase]:
        """Return the cases of a step: consecutive ones of an order that changes with each pass over the cases."""
        found = []
        for n in range(step * self.config.accumulate, (step + 1) * self.config.accumulate):
            generator = torch.Generator().manual_seed(
                derived_seed(self.editor.seed, "training order", str(n // len(self.cases)))
            )
            order = torch.randperm(len(self.cases), generator=generator)
            found.append(self.cases[int(order[n % len(self.cases)])])
        return found

    def texts(self, step: int) -> list[tuple[Text, Text, Text]]:
        """Return for each case of a step the edit, an equivalent and an unrelated prompt, read in shared passes."""
        pairs: list[tuple[str, str]] = []
        for case in self.chosen(step):
            generator = torch.Generator().manual_seed(derived_seed(self.editor.seed, case.id, str(step)))
            pairs.append((case.request.text, case.request.target_new))
            for choices in (case.equivalents, case.unrelated):
                pairs.append(choices[int(torch.randint(len(choices), (1,), generator=generator))])
        read = self.editor.read(self.lm, pairs)
        return list(zip(read[::3], read[1::3], read[2::3], strict=True))

    def gradient(self, network: Parameters, edit: Text, equivalent: Text, unrelated: Text) -> list[Tensor]:
        """Return the gradient of the loss of one case with respect to the trained parameters of the network.

        Raises:
            ValueError: the loss is not finite.
        """
        rows = self.editor.rows_of(self.lm, edit)
        weights = self.editor.edited(self.lm, self.editor.changes(self.lm, detached(network), rows))
        outer = self.outer_gradients(weights, equivalent, unrelated)
        by_role = {n: self.lm.as_stored(self.roles[n].layer, g, self.roles[n].role) for n, g in outer.items()}
        trained = {n: t for n, t in network.items() if t.requires_grad}
        return gradient_network.decoupled_gradient(trained, self.editor.normalised(network, rows), by_role)

    def outer_gradients(self, weights: Mapping[str, Tensor], equivalent: Text, unrelated: Text) -> dict[str, Tensor]:
        """Return the gradient of the loss with respect to the edited weights, as they are stored."""
        edited = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        loss = self.config.edit_factor * self.target_loss(edited, equivalent) + self.divergence(edited, unrelated)
        if not bool(loss.isfinite()):
            raise ValueError("the loss of the training is not a number; set lower learning rates")
        return dict(zip(edited, torch.autograd.grad(loss, list(edited.values())), strict=True))

    def target_loss(self, weights: Mapping[str, Tensor], text: Text) -> Tensor:
        """Return the mean negative log-likelihood of an answer after its prompt, with edited weights."""
        return text.batch.token_loss(self._logits(weights, text, text.batch.target_logits_only(self.lm)))

    def divergence(self, weights: Mapping[str, Tensor], text: Text) -> Tensor:
        """Return KL(unedited || edited) in nats, the mean over the tokens of a text."""
        before = self._logits({}, text, nullcontext()).float().log_softmax(-1)
        now = self._logits(weights, text, nullcontext()).float().log_softmax(-1)
        return (before.exp() * (before - now)).sum(-1).mean()

    def _logits(self, weights: Mapping[str, Tensor], text: Text, selected: AbstractContextManager[None]) -> Tensor:
        first = min(self.config.layers)
        with torch.set_grad_enabled(bool(weights)), resume_at(self.lm, first, text.state), selected:
            logits: Tensor = functional_call(self.lm.model, dict(weights), kwargs=text.batch.inputs).logits
        return logits

    def start(self, reporter: Reporter) -> dict[str, Tensor]:
        """Return the initial network, with the statistics of the rows and the first step size."""
        editor, lm = self.editor, self.lm
        sample = [self.cases[i] for i in range(0, len(self.cases), max(len(self.cases) // STATISTICS_CASES, 1))]
        sample = sample[:STATISTICS_CASES]
        parts: dict[str, list[Tensor]] = {name: [] for name in self.roles}
        with reporter.stage("statistics of the training cases", len(sample)) as advance:
            for text in editor.read(lm, [(case.request.text, case.request.target_new) for case in sample]):
                for name, pair in editor.rows_of(lm, text).items():
                    parts[name].append(torch.cat(pair, dim=1))
                advance()
        fixed, shapes = {}, {}
        for name, found in parts.items():
            rows = torch.cat(found)
            fixed[f"{name} mean"], fixed[f"{name} deviation"] = rows.mean(0), rows.std(0)
            role = self.roles[name]
            out_size, in_size = lm.as_stored(role.layer, lm.parameter(name), role.role).shape
            shapes[name] = (int(in_size), int(out_size))
        seed = derived_seed(editor.seed, "gradient network")
        rate = self.first_rate(fixed, gradient_network.initial(shapes, self.config.rank, 1.0, seed))
        network = gradient_network.initial(shapes, self.config.rank, rate, seed)
        return {**{f"net {name}": tensor for name, tensor in network.items()}, **fixed}

    def first_rate(self, fixed: Mapping[str, Tensor], network: Parameters) -> float:
        """Return the step size of powers of 2 whose first step lowers the loss on the edited prompt by 0.1 nats.

        It is the smallest of 1e-8, 2e-8, 4e-8, ... that does, or the best if none does.
        """
        lm, editor = self.lm, self.editor
        cases = self.cases[:: max(len(self.cases) // RATE_CASES, 1)][:RATE_CASES]
        texts = editor.read(lm, [(case.request.text, case.request.target_new) for case in cases])
        steps = [(text, editor.changes(lm, {**network, **fixed}, editor.rows_of(lm, text))) for text in texts]
        drops: dict[float, float] = {}
        for power in range(24):
            rate, drop = 1e-8 * 2.0**power, 0.0
            for text, unit in steps:
                weights = editor.edited(lm, {name: rate * change for name, change in unit.items()})
                drop += float(self.target_loss({}, text) - self.target_loss(weights, text).detach()) / len(steps)
            drops[rate] = drop
            if drop >= WANTED_DROP:
                return rate
        return max(drops, key=lambda rate: drops[rate])


def detached(tensors: Parameters) -> Parameters:
    """Return the tensors without their gradients."""
    return {name: tensor.detach() for name, tensor in tensors.items()}
