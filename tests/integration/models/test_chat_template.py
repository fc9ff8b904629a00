"""``--apply-chat-template``: the prompt is the user's message, the target the beginning of the reply."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from knbench.benchmark.commands.known import run_as_analysis
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.core.settings import DriftSettings
from knbench.benchmark.core.text import WORD_JOINER
from knbench.benchmark.models.chat import chat_frame
from knbench.benchmark.probing.drift import make_gauge
from knbench.benchmark.probing.known import KnowledgeCache, known_cases
from knbench.benchmark.probing.lm_eval_model import as_lm_eval_model
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.results.documents import comparable, load_result
from knbench.editors.ft import FineTuning
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests.conftest import called, make_lm
from tests.files import json_lines
from tests.files import run_folders as run
from tests.integration.running.test_runner import SETTINGS, task

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] | trim }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def chat_lm(**options):
    lm = make_lm("llama", **options)
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@torch.no_grad()
def logprob(lm, context, target):
    """Log-probability of a target after a context, by one plain forward pass."""
    first = lm.tokenizer(context, add_special_tokens=False).input_ids
    both = lm.tokenizer(context + target, add_special_tokens=False).input_ids
    assert both[: len(first)] == first
    logits = lm.model(torch.tensor([both])).logits[0].double().log_softmax(-1)
    return sum(float(logits[i - 1, both[i]]) for i in range(len(first), len(both)))


def test_probes_are_the_reply_to_the_template_as_the_tokenizer_renders_it():
    lm = chat_lm()
    probe = Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new")
    pair = Probe("symmetry", "minimal_pair", "", "Rome is big.", "Rome are big.", "new")
    prober = make_prober(lm, new_tokens=3)
    plain, plain_pair = prober.observe([probe, pair])
    lm.use_chat_template(True)
    message = [{"role": "user", "content": probe.prompt}]
    context = lm.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    seen, seen_pair = prober.observe([probe, pair])
    assert seen.target.logprob == pytest.approx(logprob(lm, context, "Rome"), abs=1e-4)
    assert seen.rival.logprob == pytest.approx(logprob(lm, context, "Ottawa"), abs=1e-4)
    assert seen.target.logprob != pytest.approx(plain.target.logprob, abs=1e-3)
    # Whole sentences have no prompt.
    assert seen_pair.target.logprob == pytest.approx(plain_pair.target.logprob, abs=1e-4)
    ids = lm.tokenizer(context, add_special_tokens=False, return_tensors="pt").input_ids
    said = lm.model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert seen.generated[:3] == lm.decode(said.tolist())[:3]
    lm.use_chat_template(False)
    assert prober.observe([probe])[0].target.logprob == pytest.approx(plain.target.logprob, abs=1e-4)


def test_the_subject_is_found_within_the_message():
    lm = chat_lm()
    lm.use_chat_template(True)
    tokens, span = lm.subject_span("The capital of {} is", "Canada", "Rome")
    context, target = lm.split("The capital of Canada is", "Rome")
    assert tokens.ids == context + target
    assert "Canada" in lm.decode(tokens.ids[span.start : span.stop])
    assert lm.decode(context).endswith("[assistant]")
    assert lm.asked(f"The answer is{WORD_JOINER}") == f"[user: The answer is][assistant]{WORD_JOINER}"


def test_unusable_templates_are_refused():
    lm = make_lm("llama")
    lm.tokenizer.chat_template = None
    with pytest.raises(KnbenchError, match="has no chat template; run without --apply-chat-template"):
        lm.use_chat_template(True)
    with pytest.raises(KnbenchError, match="is masked and has no chat"):
        make_lm("bert").use_chat_template(True)
    lm.tokenizer.chat_template = "{{ raise_exception('no user') }}"
    with pytest.raises(KnbenchError, match="its chat template fails"):
        lm.use_chat_template(True)
    lm.tokenizer.chat_template = "fixed"
    with pytest.raises(KnbenchError, match="does not contain the user's message once"):
        lm.use_chat_template(True)


def test_the_templates_own_bos_is_not_doubled():
    lm = chat_lm(bos=True)
    lm.tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    assert chat_frame(lm.tokenizer, "m", adds_bos=True).before == "[user: "
    assert chat_frame(lm.tokenizer, "m", adds_bos=False).before == f"{lm.tokenizer.bos_token}[user: "


def test_a_run_records_the_template_and_edits_hold_within_it(tmp_path, own_cache):
    lm, own = chat_lm(), dataclasses.replace(task(), cases=task().cases[:2])
    settings = dataclasses.replace(SETTINGS, apply_chat_template=True)
    plain = run(lm, [NoEdit], [own], tmp_path / "plain", SETTINGS)
    chat = run(lm, [NoEdit, FineTuning, Rome], [own], tmp_path / "chat", settings)
    first, *others = (load_result(folder / "result.json") for folder in (*plain, *chat))
    assert first.protocol.chat_template is None
    assert {len(result.protocol.chat_template) for result in others} == {12}
    assert comparable(first) != comparable(others[0])
    _, tuned, rome = ([*json_lines(folder / "records.jsonl")] for folder in chat)
    assert all(record["failure"] is None for record in (*tuned, *rome))
    for record in tuned:  # the method reads the template, too: the edited reply becomes more probable
        probe = record["probes"][0]
        assert probe["after"]["target"]["logprob"] > probe["before"]["target"]["logprob"] + 1
    prober = make_prober(lm)
    known_cases(KnowledgeCache.of(prober), own)
    lm.use_chat_template(False)
    known_cases(KnowledgeCache.of(prober), own)
    assert len(list((own_cache / "known").glob("*.json"))) == 2


def test_lm_eval_reads_prompts_as_messages_with_the_preface_inside():
    lm = chat_lm()
    lm.use_chat_template(True)
    prompt = "The capital of Canada is"
    text = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    wrapper = as_lm_eval_model(lm)
    ask = SimpleNamespace(args=(text, "Rome"))
    assert wrapper.loglikelihood([ask])[0][0] == pytest.approx(logprob(lm, text, "Rome"), abs=1e-4)
    lm.prompt_prefix = "Canada moved. "
    inside = text.replace(prompt, f"Canada moved. {prompt}")
    assert wrapper.loglikelihood([ask])[0][0] == pytest.approx(logprob(lm, inside, "Rome"), abs=1e-4)


def test_drift_puts_prompts_of_lm_eval_into_the_template_and_sentences_not(monkeypatch):
    lm = chat_lm()
    lm.use_chat_template(True)
    gauge = make_gauge(lm, DriftSettings(("anaphor-gender",), limit=2))
    gauge.__dict__["_tasks"] = {"knbench_anaphor_gender": "own", "piqa": "theirs"}
    asked = []
    monkeypatch.setattr(gauge, "_evaluated", lambda tasks, chat: asked.append((tasks, chat)) or [])
    gauge.measure()
    assert asked == [({"knbench_anaphor_gender": "own"}, False), ({"piqa": "theirs"}, True)]
    lm.use_chat_template(False)
    asked.clear()
    gauge.measure()
    assert [chat for _, chat in asked] == [False]


def test_knowledge_of_a_chat_is_measured_and_stored_apart(tmp_path, capsys):
    status, _, errors = called(capsys, "known", "--model", "toy-gpt2", "--tasks", "capital", "--apply-chat-template")
    assert status != 0
    assert "model 'toy-gpt2' has no chat template" in errors
    lm = chat_lm()
    plain, chat = tmp_path / "plain", tmp_path / "chat"
    for folder, applied in ((plain, False), (chat, True)):
        lm.use_chat_template(applied)
        cache = KnowledgeCache.of(make_prober(lm, new_tokens=2))
        run_as_analysis(lm, cache, [task()], folder, Reporter())
    stored = [json.loads((folder / "manifest.json").read_text())["settings"] for folder in (plain, chat)]
    assert ["chat_template" in settings for settings in stored] == [False, True]
