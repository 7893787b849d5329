"""Tokenizers as `tokenizers` reads them from a `tokenizer.json`: prompts become ids, and nothing in a file runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Rules

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
FILE = "tokenizer.json"


class Coded(NamedTuple):
    """A prompt without padding: its ids, the special ones among them, and which characters each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """The rules of a `tokenizer.json`, and which of its tokens pad, end a prompt, and stand for unknown words."""

    def __init__(self, rules: "Rules", *, pad: str, end: str | None = None, unknown: str | None = None) -> None:
        """Take rules; special tokens they lack are added to them.

        Raises:
            ValueError: if `pad` is empty.
        """
        from tokenizers import AddedToken

        if not pad:
            raise ValueError("there is no pad_token")
        padding = rules.padding or {}
        self.pads_left = padding.get("direction") == "left"
        rules.no_truncation()
        rules.no_padding()
        known = {token.content for token in rules.get_added_tokens_decoder().values()}
        special = [token for token in (pad, end, unknown) if token is not None and token not in known]
        rules.add_tokens([AddedToken(token, special=True) for token in dict.fromkeys(special)])
        self.rules, self.pad, self.end, self.unknown = rules, pad, end, unknown

    def __len__(self) -> int:
        """Return how many tokens there are."""
        return self.rules.get_vocab_size()

    def __call__(self, prompts: Sequence[str]) -> list[Coded]:
        """Turn prompts into ids, without padding, however long they are.

        Raises:
            ValueError: if the rules cannot: they may lack the token for words that they do not know.
        """
        try:
            found: list[Encoding] = self.rules.encode_batch(list(prompts))
        except Exception as error:  # tokenizers raises nothing more special
            raise ValueError(f"the tokenizer cannot read the prompt: {' '.join(str(error).split())}") from None
        return [Coded(one.ids, one.offsets) for one in found]

    def id(self, token: str | None) -> int | None:
        """Return the id of a token, None if there is none."""
        return None if token is None else self.rules.token_to_id(token)

    def vocabulary(self) -> Mapping[str, int]:
        """Return token → id."""
        return self.rules.get_vocab()

    def save(self, folder: Path, *, max_tokens: int) -> None:
        """Write a folder that transformers reads too."""
        from causvid.files.writing import write_json

        folder.mkdir(parents=True, exist_ok=True)
        self.rules.save(str(folder / FILE))
        special = {"eos_token": self.end, "pad_token": self.pad, "unk_token": self.unknown}
        settings = {
            "backend": "tokenizers",
            "model_max_length": max_tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in special.items() if token is not None},
        }
        if self.pads_left:
            settings["padding_side"] = "left"
        write_json(folder / "tokenizer_config.json", settings)
