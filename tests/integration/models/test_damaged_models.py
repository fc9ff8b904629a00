"""Loading of damaged, incomplete and unsuitable models: each is refused in one line that names the fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from knbench.benchmark.core.documents import ModelCard
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.models.catalogue import check_model_name
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.running.provenance import describe_model
from safetensors.torch import load_file, save_file

from tests.conftest import make_lm, train_tokenizer

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Folders of tiny models by kind; ``sharded`` and ``tied`` are Llama models."""
    root = tmp_path_factory.mktemp("originals")
    for kind in ("llama", "gpt2", "gptj", "bert"):
        lm = make_lm(kind)
        lm.model.save_pretrained(root / kind)
        lm.tokenizer.save_pretrained(root / kind)
        if kind == "llama":
            lm.model.save_pretrained(root / "sharded", max_shard_size="20KB")
            lm.tokenizer.save_pretrained(root / "sharded")
    return root


@pytest.fixture
def copy(originals, tmp_path):
    """A function that copies a model folder, and changes its tensors and its configuration."""

    def copied(kind="llama", change=None, **config) -> Path:
        folder = shutil.copytree(originals / kind, tmp_path / "model")
        if change is not None:
            tensors = load_file(folder / WEIGHTS)
            save_file(change(tensors) or tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if config:
            file = folder / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return folder

    return copied


def without(*endings):
    return lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(endings)}


def with_value(name, value):
    def change(tensors):
        tensors[name].view(-1)[3] = value

    return change


def refusal(folder, **options) -> str:
    """Return the message with which a model is refused, which has one line."""
    with pytest.raises(KnbenchError) as caught:
        load_model(str(folder), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("llama", "layers.1.mlp.up_proj.weight"),
        ("gpt2", "h.1.attn.c_proj.bias"),
        ("gpt2", "wpe.weight"),
        ("gptj", "lm_head.bias"),
        ("bert", "cls.predictions.transform.dense.weight"),
        ("bert", "cls.predictions.bias"),
    ],
)
def test_missing_tensors_are_refused_by_name(copy, kind, missing):
    message = refusal(copy(kind, without(missing)))
    assert missing in message
    assert "lack tensors" in message


def test_a_missing_head_is_refused_unless_it_is_tied(copy):
    folder = copy(tie_word_embeddings=False)  # the original is tied, and has one tensor for both
    assert "lack tensors that its config.json implies: lm_head.weight; " in refusal(folder)


def test_layers_that_the_file_lacks_are_refused(copy):
    assert "lack tensors that its config.json implies: model.layers.4." in refusal(copy(num_hidden_layers=6))


def test_tensors_under_other_names_are_refused(copy):
    folder = copy("llama", lambda tensors: {f"base_model.model.{name}": value for name, value in tensors.items()})
    assert "the file has other names, for example base_model.model.model.embed_tokens.weight" in refusal(folder)


def test_an_empty_weights_file_is_refused(copy):
    assert "lack tensors" in refusal(copy("llama", lambda _: {"none": torch.zeros(1)}))


def test_tied_tensors_are_not_missing(copy):
    folder = copy(tie_word_embeddings=True)
    lm = load_model(str(folder))
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight
    assert lm.unused_tensors == ()


def test_tied_tensors_that_are_both_absent_are_missing(copy):
    folder = copy("llama", without("embed_tokens.weight"), tie_word_embeddings=True)
    assert "lm_head.weight, model.embed_tokens.weight" in refusal(folder)


def test_a_shard_that_lacks_a_tensor_is_refused(copy):
    folder = copy("sharded")
    shard = sorted(folder.glob("model-*"))[2]
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, shard, metadata={"format": "pt"})
    assert name in refusal(folder)


def test_tensors_beyond_the_architecture_are_named_and_recorded(copy, capsys):
    lm = load_model(str(copy(num_hidden_layers=2)))
    assert "warning: the architecture of model 'model' lacks tensors of its weights" in capsys.readouterr().err
    card: ModelCard = describe_model(lm)
    assert len(card.unused_tensors) == 2 * 9
    assert card.unused_tensors[0] == "model.layers.2.input_layernorm.weight"
    assert describe_model(make_lm("llama")).unused_tensors is None


def test_tensors_of_another_size_are_refused_with_both_sizes(copy):
    message = refusal(copy(intermediate_size=56))
    assert "mlp.down_proj.weight is 32x48 in the file and 32x56 by config.json" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.2.mlp.up_proj.weight", float("nan")),
        ("model.embed_tokens.weight", float("inf")),
        ("model.norm.weight", float("-inf")),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(copy, name, value):
    assert f"contain NaN or infinity, in: {name}" in refusal(copy("llama", with_value(name, value)))


def test_large_finite_weights_are_accepted_unless_the_dtype_cannot_hold_them(copy):
    folder = copy("llama", lambda tensors: tensors["model.norm.weight"].fill_(2e38) is None)
    load_model(str(folder))  # their sum is not finite
    message = refusal(folder, dtype="float16")
    assert "model.norm.weight" in message
    assert "use --dtype float32 or bfloat16" in message


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"quantization_config": {"bits": 4}},
        {"compression_config": {"quant_method": "compressed-tensors"}},
    ],
)
def test_quantised_checkpoints_are_refused(copy, config):
    message = refusal(copy(**config))
    assert "has quantised weights (" in message
    assert (
        "they cannot be edited, because an edit changes real numbers; use the unquantised model, or a GGUF file"
        in message
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_tensors_without_a_configuration_are_refused(copy, dtype):
    def quantise(tensors):
        return {name: value.to(dtype) if ".mlp." in name else value for name, value in tensors.items()}

    assert "stores quantised weights: model.layers.0.mlp" in refusal(copy("llama", quantise))


def test_float64_weights_are_read(copy):
    folder = copy("llama", lambda tensors: {name: value.double() for name, value in tensors.items()})
    assert load_model(str(folder)).weight_hash() == make_lm("llama").weight_hash()


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json", "config.json", "vocab.txt"])
def test_git_lfs_pointers_are_named(copy, file):
    folder = copy()
    (folder / file).write_text(POINTER)
    message = refusal(folder)
    assert message.startswith(f"'{folder / file}' is a Git LFS pointer")
    assert "git lfs pull" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: content[: len(content) // 2], "is cut: it has"),
        (lambda content: content[:-9], "is cut: it has"),
        (lambda content: content[:300], "is cut: its header needs"),
        (lambda content: content + b"xx", "is damaged: it has"),
        (lambda _: b"", "is not a safetensors file or is cut (0 bytes)"),
        (lambda _: b"<!DOCTYPE html><html></html>", "is not a safetensors file or is cut"),
        (lambda content: content[:8] + b"[" + content[9:], "has a damaged header"),
    ],
)
def test_cut_and_damaged_weights_are_named(copy, change, expected):
    folder = copy()
    file = folder / WEIGHTS
    file.write_bytes(change(file.read_bytes()))
    assert expected in refusal(folder)


def test_missing_shards_and_indices_are_named(copy):
    folder = copy("sharded")
    shard = sorted(folder.glob("model-*"))[1]
    shard.unlink()
    assert f"weights files: {shard.name}; copy them" in refusal(folder)
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text('{"weight_map": []}')
    assert "is not an index of safetensors files" in refusal(folder)
    index.unlink()
    assert f"but neither {WEIGHTS} nor {WEIGHTS}.index.json" in refusal(folder)


def remove_tokenizer(folder):
    for path in folder.iterdir():
        if path.name not in (WEIGHTS, "config.json"):
            path.unlink()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_missing_tokenizer_is_named(copy, kind):
    folder = copy(kind)
    remove_tokenizer(folder)
    assert f"folder '{folder}' has no tokenizer (none of tokenizer.json, " in refusal(folder)


def test_a_damaged_tokenizer_is_named(copy):
    folder = copy()
    file = folder / "tokenizer.json"
    content = file.read_text()
    for damaged in (content[:2000], "{}"):
        file.write_text(damaged)
        assert "cannot read the tokenizer of model 'model'" in refusal(folder)


def add_tokens(folder, **special):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if special:
        tokenizer.add_special_tokens(special)
    else:
        tokenizer.add_tokens(["Ottawa-on-Sea", "<new>", " Oslo"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(copy, kind):
    folder = copy(kind)
    rows = make_lm(kind).model.get_input_embeddings().weight.shape[0]
    add_tokens(folder)
    message = refusal(folder)
    assert f"the tokenizer has {rows + 3} tokens and the embedding {rows} rows" in message
    assert "'Ottawa-on-Sea', '<new>', ' Oslo'" in message


def test_special_tokens_in_use_need_a_row_of_the_embedding(copy):
    folder = copy()
    add_tokens(folder, eos_token="<new_end>")
    assert "beyond it: '<new_end>'" in refusal(folder)


@pytest.mark.parametrize("special", [{"pad_token": "[PAD]"}, {"additional_special_tokens": ["<image>"]}])
def test_padding_and_unused_special_tokens_need_no_row(copy, special):
    folder = copy()
    add_tokens(folder, **special)
    lm = load_model(str(folder))
    assert int(lm.pad([[1], [1, 2]]).ids.max()) < lm.model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("full", [True, False])
def test_adapters_are_refused(copy, full):
    folder = copy()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    if not full:
        (folder / "config.json").unlink()
    assert "is an adapter (adapter_config.json); merge it into its base model" in refusal(folder)


def test_a_cut_list_of_merges_is_refused(copy):
    """The words would be split into characters, which the model can read and was not trained on."""
    folder = copy("gpt2")
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text())
    merges = state["model"]["merges"]
    for kept in (0, len(merges) // 2, int(0.9 * len(merges))):
        state["model"]["merges"] = merges[:kept]
        file.write_text(json.dumps(state))
        assert "the merges of its tokenizer are cut" in refusal(folder)
    state["model"]["merges"] = merges
    file.write_text(json.dumps(state))
    assert load_model(str(folder)).encode("The capital").ids == make_lm("gpt2").encode("The capital").ids


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_weights_of_a_type_that_loses_values_are_refused(copy, dtype):
    name = "model.norm.weight"
    folder = copy("llama", lambda tensors: {**tensors, name: tensors[name].to(dtype)})
    assert name in refusal(folder)


def test_a_token_that_the_tokenizer_adds_starts_each_text_although_no_bos_is_named(originals, tmp_path):
    """Without it the model would read texts that it was not trained on."""
    folder = shutil.copytree(originals / "llama", tmp_path / "model")
    train_tokenizer(bos=True).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "bos_token"}))
    lm = load_model(str(folder))
    named = make_lm("llama", bos=True)
    assert (lm.tokenizer.bos_token_id, lm.bos_id, lm.start_id) == (None, named.bos_id, named.start_id)
    assert lm.encode("Rome").ids == named.encode("Rome").ids
    assert lm.split("", "Rome") == named.split("", "Rome")


def test_the_home_folder_may_be_abbreviated(originals, monkeypatch):
    monkeypatch.setenv("HOME", str(originals))
    check_model_name("~/llama")
    assert load_model("~/llama").name == "llama"


# --- GGUF ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(originals, tmp_path_factory):
    """A function that writes a tiny Llama model as a GGUF file.

    It leaves out the tensors that contain the text ``without``, and passes the writer to ``extra``. The up projections
    have the type ``quantised``.
    """

    def write(without: str | None = None, extra=None, pre: str = "smollm", quantised=None) -> Path:
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        lm = make_lm("llama")
        config = lm.model.config
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(64)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(config.vocab_size)
        backend = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
        vocabulary = lm.tokenizer.get_vocab()
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
        writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
        writer.add_bos_token_id(lm.tokenizer.bos_token_id)
        writer.add_eos_token_id(lm.tokenizer.eos_token_id)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        for name, value in lm.model.state_dict().items():
            stored = names.get_name(name, try_suffixes=(".weight",))
            if without is None or without not in stored:
                data = value.numpy().astype(np.float32)
                if quantised is not None and "ffn_up" in stored:
                    writer.add_tensor(stored, gguf.quants.quantize(data, quantised), raw_dtype=quantised)
                else:
                    writer.add_tensor(stored, data)
        if extra is not None:
            extra(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_a_whole_gguf_file_is_read(gguf_file):
    lm = load_model(str(gguf_file()))
    assert (lm.n_layers, lm.unused_tensors) == (4, ())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_a_quantised_gguf_file_is_read_as_real_numbers(gguf_file, kind):
    kind = gguf.GGMLQuantizationType[kind]
    lm = load_model(str(gguf_file(quantised=kind)))
    original = make_lm("llama").parameter("model.layers.2.mlp.up_proj.weight").numpy()
    expected = torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind))
    assert torch.equal(lm.parameter("model.layers.2.mlp.up_proj.weight"), expected)
    assert not torch.equal(expected, torch.tensor(original))


@pytest.mark.parametrize("missing", ["ffn_up", "blk.1.attn_norm", "token_embd"])
def test_a_gguf_file_without_some_tensors_is_refused(gguf_file, missing):
    assert "lack tensors that its config.json implies" in refusal(gguf_file(missing))


def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def frequencies(value):
    return lambda writer: writer.add_tensor("rope_freqs.weight", np.full(4, value, np.float32))


def bias(writer):
    writer.add_tensor("blk.0.attn_q.bias", np.ones(32, np.float32))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"extra": linear}, "scales the rotary positions (rope.scaling)"),
        ({"extra": frequencies(8.0)}, "scales the rotary positions (rope_freqs.weight)"),  # as in Llama 3.1
        ({"extra": bias}, "has tensors that the architecture LlamaForCausalLM lacks: 57920 values instead of 57888"),
        ({"pre": "deepseek-llm"}, "has the pre-tokenizer 'deepseek-llm', which transformers does not know"),
    ],
)
def test_settings_that_transformers_ignores_are_refused(gguf_file, options, expected):
    """transformers loads these files without a message, and its logits or tokens are wrong."""
    file = gguf_file(**options)
    message = refusal(file)
    assert expected in message
    assert str(file) in message


@pytest.mark.parametrize("options", [{"extra": frequencies(1.0)}, {"pre": "llama-bpe"}, {"pre": "qwen2"}])
def test_settings_that_transformers_reads_are_accepted(gguf_file, options):
    assert load_model(str(gguf_file(**options))).n_layers == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: b"", "is cut"),
        (lambda content: content[:20], "is cut"),
        (lambda content: content[:24], "is cut or damaged"),
        (lambda content: content[:3000], "is cut or damaged"),
        (lambda content: content[: len(content) // 2], "is cut or damaged"),
        (lambda content: content[:-9], "is cut or damaged"),
        (lambda content: content[:4] + b"\x09\0\0\0" + content[8:], "has format version 9; supported: 2 and 3"),
        (lambda content: content[:16] + (2**60).to_bytes(8, "little") + content[24:], "is cut or damaged"),
        (lambda _: b"<!DOCTYPE html><html></html>", "is not a GGUF file"),
        (lambda _: POINTER.encode(), "is a Git LFS pointer"),
    ],
)
def test_cut_and_damaged_gguf_files_are_named(gguf_file, change, expected):
    file = gguf_file()
    file.write_bytes(change(file.read_bytes()))
    message = refusal(file)
    assert expected in message
    assert str(file) in message
