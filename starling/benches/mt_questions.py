"""Which questions of MT-Bench are meant: the official ones, a file in FastChat's form, or our own."""

from importlib.resources import files
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from starling.benches import fastchat
from starling.benches.fastchat import QuestionSet
from starling.errors import CallError, UsageError

OFFICIAL, BUILTIN = "official", "builtin"
SPACE, FOLDER = "lmsys/mt-bench", "data/mt_bench"  # where FastChat's authors keep the files


def find(data: str) -> tuple[QuestionSet, str]:
    """The questions that `--data` means, and what they are called."""
    if data == BUILTIN:
        return fastchat.read_questions(Path(str(files("starling") / "data" / "mt_questions.jsonl"))), BUILTIN
    if data in ("", OFFICIAL):
        return fastchat.read_questions(*_official()), f"{SPACE}/{FOLDER}"
    path = Path(data).expanduser()
    file = path / fastchat.QUESTIONS if path.is_dir() else path
    folder = file.parent / fastchat.REFERENCES
    references = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    usual = [one for one in references if one.name == fastchat.USUAL_REFERENCE]
    if len(references) > 1 and not usual:
        raise UsageError(f"bench: {folder} holds {len(references)} files and no {fastchat.USUAL_REFERENCE}; keep one")
    return fastchat.read_questions(file, next(iter(usual or references), None)), data


def _official() -> tuple[Path, Path | None]:
    """The official questions and their reference answers, fetched on first use."""

    def fetched(name: str) -> Path:
        return Path(hf_hub_download(SPACE, f"{FOLDER}/{name}", repo_type="space"))

    try:
        questions = fetched(fastchat.QUESTIONS)
        try:
            return questions, fetched(f"{fastchat.REFERENCES}/{fastchat.USUAL_REFERENCE}")
        except LocalEntryNotFoundError:
            raise  # not that there is none: the network did not tell
        except EntryNotFoundError:
            return questions, None  # the rows have references of their own
    except (OSError, HfHubHTTPError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise CallError(
            f"bench: the official questions of MT-Bench cannot be fetched ({said}); give --data FILE, FastChat's "
            f"{fastchat.QUESTIONS} or its folder, or --data {BUILTIN} for our own questions"
        ) from error
