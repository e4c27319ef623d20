"""shoal's own parts hold the contracts that it ships, and the contracts find what is broken."""

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from shoal.errors import UserError
from shoal.models.families import usual_roles
from shoal.parts import (
    Counts,
    Measure,
    Measures,
    ModelSettings,
    Rule,
    RunSpec,
    Sizes,
    Task,
    TaskSettings,
    setting,
    token_losses,
)
from shoal.testing import EngineContract, ExecutorContract, ModelContract, RuleContract, TaskContract
from shoal.training.executor import execute

SMALL: dict[str, Any] = {"p": 5, "num_layers": 1, "embedding_size": 8, "r_train": 0.6, "n_steps": 30, "lr": 3e-3}
VARIANT = {"norm": "rmsnorm", "norm_position": "pre", "positions": "rotary", "non_linearity": "swiglu"}


class OfText:
    """With a text of some 2,000 characters."""

    @pytest.fixture
    def spec(self, tmp_path):
        path = tmp_path / "text.txt"
        path.write_text("".join(f"{n} bottles and {n * n % 7} of them green; " for n in range(60)))
        return RunSpec(**self.settings, text=str(path))


class TestArithmetic(TaskContract):
    settings = SMALL


class TestArithmeticOfBothOrders(TaskContract):
    settings = {**SMALL, "p": 3, "operation_orders": (2, 3), "equation_format": "eos", "label_smoothing": 0.1}


class TestText(OfText, TaskContract):
    settings = {
        "task": "text",
        "context_length": 8,
        "eval_stride": 4,
        "embedding_size": 8,
        "num_layers": 1,
        "n_steps": 200,
    }


class TestTextInBlocksOfBytes(OfText, TaskContract):
    settings = {
        "task": "text",
        "context_length": 16,
        "windows": "blocks",
        "tokenizer": "bytes",
        "embedding_size": 4,
        "num_layers": 1,
        "n_steps": 200,
        "label_smoothing": 0.1,
    }


class TestLSTM(ModelContract):
    settings = {**SMALL, "num_layers": 2, "dropout": 0.1}


class TestLSTMOnText(OfText, ModelContract):
    settings = {"task": "text", "context_length": 8, "embedding_size": 8, "num_layers": 1, "n_steps": 200, "lr": 3e-3}


class TestGPT(ModelContract):
    settings = {**SMALL, "model": "gpt", "num_heads": 2, "dropout": 0.1, "dropout_at": "everywhere"}


class TestVariantOfGPT(ModelContract):
    settings = {**SMALL, "model": "gpt", "num_heads": 2, "share_embeddings": True, **VARIANT}


OF_SOURCES: dict[str, Any] = {"task": "of_sources:Next", "embedding_size": 8, "n_steps": 30, "lr": 3e-3}


class TestEncoderDecoder(ModelContract):
    settings = {**OF_SOURCES, "num_heads": 2, "num_decoder_layers": 1}


class TestVariantOfEncoderDecoder(ModelContract):
    settings = {
        **OF_SOURCES,
        **VARIANT,
        "num_heads": 2,
        "num_layers": 1,
        "tie_embeddings": "all",
        "scale_embeddings": True,
        "initialisation": "xavier_all",
        "dropout_at": "feed_forward",
    }


class TestEncoderTranslator(ModelContract):
    settings = {**OF_SOURCES, "model": "encoder_translator", "num_heads": 2}


class TestNonAutoregressive(ModelContract):
    settings = {**OF_SOURCES, "model": "non_autoregressive", "num_heads": 2}


class TestLSTMEncoderDecoder(ModelContract):
    settings = {**OF_SOURCES, "model": "lstm_encoder_decoder", "num_decoder_layers": 2}


class TestOneWayLSTMEncoderDecoder(ModelContract):
    settings = {
        **OF_SOURCES,
        "model": "lstm_encoder_decoder",
        "num_encoder_layers": 2,
        "tie_embeddings": "decoder",
        "bidirectional": False,
    }


class TestSGD(RuleContract):
    settings = {"optimizer": "sgd"}


class TestMomentum(RuleContract):
    settings = {"optimizer": "momentum"}


class TestAdam(RuleContract):
    settings = {"optimizer": "adam"}


class TestAdamW(RuleContract):
    settings = {"optimizer": "adamw"}


class TestLion(RuleContract):
    settings = {"optimizer": "lion"}


class TestMuon(RuleContract):
    settings = {"optimizer": "muon"}
    tolerance = 1e-6  # products of several matrices at once are summed in another order


class TestEnginesOfLSTM(EngineContract):
    settings = SMALL


class TestEnginesOfGPT(EngineContract):
    settings = {**SMALL, "model": "gpt", "num_heads": 2, **VARIANT}


class TestEnginesOfText(OfText, EngineContract):
    settings = {"task": "text", "context_length": 8, "embedding_size": 8, "num_layers": 1, "n_steps": 200}


class TestEnginesOfPairs(EngineContract):
    settings = {
        "task": "sorting",
        "min_length": 2,
        "max_length": 4,
        "digits": 8,
        "train_examples": 50,
        "valid_examples": 20,
        "embedding_size": 8,
        "num_layers": 1,
        "num_heads": 2,
        "n_steps": 200,
        "label_smoothing": 0.1,
    }


class TestThisProcess(ExecutorContract):
    pass


@pytest.mark.slow
class TestWorkers(ExecutorContract):
    def execute(self, folders, execution, watch):
        return execute(folders, workers=2, execution=execution, watch=watch)


# broken parts: each contract finds what is wrong with them


class Copy(TaskSettings):
    """Whole, and broken one way each: a row is a token twice."""

    flaw: str = setting("none", "what is broken", "a word")
    tokens: int = setting(12, "different tokens", "an integer", ge=4)
    _DRAWS: ClassVar[list[int]] = []

    def measures(self):
        return Measures((Measure("loss", "L", "loss"), Measure("right", "R", "right", "", True, (0.0, 1.0))))

    def sizes(self):
        return Sizes(self.tokens - (self.flaw == "vocabulary"), 1 if self.flaw != "length" else 0)

    def counts(self):
        return Counts(self.tokens // 2 + (self.flaw == "counts"), self.tokens)

    def build(self, split_seed):
        order = torch.randperm(self.tokens, generator=torch.Generator().manual_seed(split_seed))
        if self.flaw == "random":
            order = torch.randperm(self.tokens)
        half = self.tokens // 2
        train, valid = order[:half], order[half:]
        if self.flaw == "leak":
            valid = torch.cat([valid[1:], train[:1]])
        rows = torch.arange(self.tokens).unsqueeze(1).repeat(1, 2)
        return Task({"rows": rows}, train, {"train": train, "valid": valid}, self.objective)

    def objective(self, model, batch):
        rows = batch["rows"]
        logits, *_ = model(rows[:, :1])
        loss = token_losses(logits, rows[:, 1:]).mean(-1)
        right = (logits.argmax(-1) == rows[:, 1:]).all(-1).float()
        if self.flaw == "batch":
            loss = loss + logits.mean()
        if self.flaw == "shape":
            right = right.mean()
        if self.flaw == "constant":
            loss = loss.detach() + 0 * logits.sum((1, 2))
        if self.flaw == "infinite":
            loss = loss / 0
        if self.flaw == "bounds":
            right = right + 2
        return {"loss": loss} if self.flaw == "lacks" else {"loss": loss, "right": right}


class Odd(ModelSettings):
    """A table and a classifier, and what is wrong with them."""

    fault: str = setting("none", "what is broken", "a word")

    def build(self, sizes):
        return OddModel(self.fault, sizes.vocabulary_size)

    def count(self, sizes):
        return 0 if self.fault == "count" else super().count(sizes)

    def roles(self, module):
        roles = usual_roles(module)
        return {**roles, "classifier.bias": "shift"} if self.fault == "roles" else roles


class OddOfSources(Odd):
    """The same of pairs."""

    reads: ClassVar[str] = "pair"

    def build(self, sizes):
        return OddModelOfSources(self.fault, sizes.vocabulary_size)


class OddModelOfSources(nn.Module):
    """A target's token beside the mean of the source."""

    def __init__(self, fault, vocabulary):
        super().__init__()
        self.fault = fault
        self.embedding = nn.Embedding(vocabulary, 4)
        self.classifier = nn.Linear(4, vocabulary)

    def forward(self, source, target, seen):
        logits, _ = self.step(target, self.begin(source, seen, target.shape[1]))
        return logits + 1 if self.fault == "steps" else logits, None

    def begin(self, source, seen, length):
        weights = seen.unsqueeze(-1) * 1.0
        if self.fault == "padding":
            weights = torch.ones_like(weights)
        total = weights.sum(1)
        mean = (weights * self.embedding(source)).sum(1) / (total if self.fault == "nan" else total.clamp(min=1))
        return {"memory": mean, "lengths": torch.zeros(len(source), dtype=torch.int64)}

    def step(self, tokens, state):
        memory = state["memory"]
        logits = self.classifier(self.embedding(tokens) + memory.unsqueeze(1))
        if self.fault == "in place":
            state["lengths"].add_(1)
        moved = memory + 0.1 if self.fault == "moves" else memory
        return logits, {"memory": moved, "lengths": state["lengths"] + tokens.shape[1]}


class OddModel(nn.Module):
    def __init__(self, fault, vocabulary):
        super().__init__()
        self.fault = fault
        self.embedding = nn.Embedding(vocabulary, 4)
        self.classifier = nn.Linear(4, vocabulary)
        self.drop = nn.Dropout(0.5 if fault == "dropout" else 0.0)
        if fault == "seed":
            for parameter in self.parameters():
                nn.init.constant_(parameter, 0.1)
        if fault == "state":
            self.register_buffer("scale", torch.rand(1), persistent=False)

    def forward(self, tokens):
        x = self.drop(self.embedding(tokens))
        if self.fault == "future":
            x = x + x.mean(1, keepdim=True)
        if self.fault == "rows":
            x = x - x.mean(0, keepdim=True)
        if self.fault == "state":
            x = x * self.scale
        if self.fault == "lift":
            x = x if float(x.sum()) > 0 else x + 1
        logits = self.classifier(x)
        if self.fault == "stuck":
            logits = logits.detach() + 0 * logits
        return logits if self.fault == "bare" else (logits, None)


class Bad(Rule):
    """Gradient descent, and what is wrong with it."""

    state: ClassVar[tuple[str, ...]] = ("m",)
    is_decoupled: ClassVar[bool] = True
    slip: str = setting("none", "what is broken", "a word")

    def build(self):  # noqa: C901 (a flaw each)
        memory: list[Any] = []

        def update(theta, gradient, state, hyper, step, layout):
            lr, decay = hyper["lr"].float(), hyper["weight_decay"].float()
            if self.slip == "neighbours":
                gradient = gradient + gradient.mean(0, keepdim=True)
            if self.slip == "undeclared":
                state["v"] = gradient.clone()
            if self.slip == "gradient":
                gradient.mul_(0.5)
            if self.slip == "first":
                lr = lr / (step - 1).float()
            if self.slip == "memory":
                memory.append(gradient)
                gradient = gradient * len(memory)
            if self.slip == "elsewhere":
                state["m"] = state["m"] + gradient
            if self.slip == "uphill":
                gradient = -gradient
            if self.slip == "restless":
                gradient = gradient + 1e-3
            if self.slip == "decay":
                decay = decay[:, :1]
            theta.mul_(1 - lr * (0 * decay if self.slip == "still" else decay)).sub_(lr * gradient)

        return update


def run(contract, name, **settings):
    """One test of a contract on a run."""
    suite = contract()
    suite.settings = settings
    spec = RunSpec(**settings)
    fixtures = {"spec": spec}
    wanted = getattr(contract, name).__code__.co_varnames[1 : getattr(contract, name).__code__.co_argcount]
    for fixture in set(wanted) - {"spec"}:
        fixtures[fixture] = _fixture(contract, fixture)(suite, spec)
    getattr(suite, name)(**{fixture: fixtures[fixture] for fixture in wanted})


def _fixture(contract, name):
    found = getattr(contract, name)
    return getattr(found, "__wrapped__", None) or found._get_wrapped_function()


def _tests_of(contract):
    return [name for name in dir(contract) if name.startswith("test_")]


OF_COPY = {"task": f"{__name__}:Copy", "n_steps": 20, "embedding_size": 4, "num_layers": 1}
OF_ODD = {"task": f"{__name__}:Copy", "model": f"{__name__}:Odd", "n_steps": 20, "lr": 1e-2}
OF_BAD = {"optimizer": f"{__name__}:Bad"}
OF_PAIRS = {"task": "of_sources:Next", "model": f"{__name__}:OddOfSources", "n_steps": 20, "lr": 1e-2}
BASES = {
    "task": (TaskContract, OF_COPY),
    "model": (ModelContract, OF_ODD),
    "model of sources": (ModelContract, OF_PAIRS),
    "rule": (RuleContract, OF_BAD),
}
WORDS = {"task": "flaw", "model": "fault", "model of sources": "fault", "rule": "slip"}

FLAWS = {
    ("task", "counts"): "test_counts_are_those_of_the_data",
    ("task", "vocabulary"): "test_sizes_hold_for_what_the_model_reads",
    ("task", "length"): "test_sizes_hold_for_what_the_model_reads",
    ("task", "leak"): "test_what_is_drawn_and_scored_are_examples_of_their_splits",
    ("task", "random"): "test_the_same_settings_give_the_same_data_here_and_elsewhere",
    ("task", "batch"): "test_an_example_is_scored_as_if_it_were_alone",
    ("task", "shape"): "test_the_objective_gives_what_the_task_measures_per_example",
    ("task", "lacks"): "test_the_objective_gives_what_the_task_measures_per_example",
    ("task", "infinite"): "test_the_objective_gives_what_the_task_measures_per_example",
    ("task", "bounds"): "test_the_objective_gives_what_the_task_measures_per_example",
    ("task", "constant"): "test_the_training_loss_has_a_gradient",
    ("model", "count"): "test_the_count_is_that_of_its_parameters",
    ("model", "roles"): "test_every_parameter_has_a_role",
    ("model", "rows"): "test_a_row_is_computed_as_if_it_were_alone",
    ("model", "bare"): "test_it_gives_logits_first",
    ("model", "seed"): "test_initial_values_hang_on_init_seed_alone",
    ("model", "state"): "test_what_is_kept_of_it_gives_it_back",
    ("model", "dropout"): "test_training_draws_by_key_and_step_alone",
    ("model", "lift"): "test_lifted_over_members_it_computes_what_each_does",
    ("model", "stuck"): "test_it_learns",
    ("model of sources", "padding"): "test_what_pads_a_source_changes_nothing",
    ("model of sources", "nan"): "test_a_source_of_padding_alone_makes_no_nan",
    ("model of sources", "steps"): "test_step_by_step_it_says_what_it_says_at_once",
    ("model of sources", "in place"): "test_step_by_step_it_says_what_it_says_at_once",
    ("model of sources", "moves"): "test_step_by_step_it_says_what_it_says_at_once",
    ("rule", "neighbours"): "test_members_move_as_if_they_were_alone",
    ("rule", "undeclared"): "test_it_changes_parameters_and_state_in_place_and_nothing_else",
    ("rule", "elsewhere"): "test_it_changes_parameters_and_state_in_place_and_nothing_else",
    ("rule", "gradient"): "test_it_changes_parameters_and_state_in_place_and_nothing_else",
    ("rule", "first"): "test_it_changes_parameters_and_state_in_place_and_nothing_else",
    ("rule", "memory"): "test_the_same_step_twice_is_the_same",
    ("rule", "uphill"): "test_it_finds_the_minimum_of_a_quadratic_form",
    ("rule", "restless"): "test_without_a_gradient_only_the_decay_acts",
    ("rule", "still"): "test_without_a_gradient_only_the_decay_acts",
    ("rule", "decay"): "test_the_decay_can_be_one_number_per_parameter",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (c, _) in BASES.items() for name in _tests_of(c)])
def test_what_is_whole_holds_the_contract(kind, name):
    contract, base = BASES[kind]
    run(contract, name, **base)


@pytest.mark.parametrize(("kind", "flaw"), FLAWS)
def test_what_is_broken_does_not(kind, flaw):
    contract, base = BASES[kind]
    with pytest.raises((AssertionError, RuntimeError, IndexError, UserError)):
        run(contract, FLAWS[kind, flaw], **base, **{WORDS[kind]: flaw})


def test_a_model_that_sees_the_future_is_found_and_may_say_so():
    base = {"p": 5, "model": f"{__name__}:Odd", "fault": "future"}
    with pytest.raises(AssertionError, match="before position 1"):
        run(ModelContract, "test_the_future_changes_no_logit_of_the_past", **base)
    run(ModelContract, "test_the_future_changes_no_logit_of_the_past", **{**base, "fault": "none"})
